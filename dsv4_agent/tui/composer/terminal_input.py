"""Reads the terminal where Textual 8 reads it wrongly: hostile pastes, and Enter with Alt or Shift.

Textual goes on looking for escape sequences inside a bracketed paste. What it does not understand there it
hands out as keys, line feeds and control keys among them: a text with one ESC in it could press Enter, so
that pasting submits, or runs, what the text says. Many terminals filter a paste; tmux, for one, does not.

And it takes Alt+Enter, as terminals without the kitty protocol send it, for Enter.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from textual import events
from textual._xterm_parser import XTermParser
from textual.drivers import linux_driver, linux_inline_driver
from textual.message import Message

_ESCAPE: Final = "\x1b"
_SUBSTITUTE: Final = "\x1a"
_START: Final = "\x1b[200~"
_END: Final = "\x1b[201~"
_KEYS: Final = {
    "\x1b\r": "alt+enter",
    "\x1b[27;2;13~": "shift+enter",  # xterm's modifyOtherKeys; tmux with `extended-keys on`
    "\x1b[27;3;13~": "alt+enter",
    "\x1b\x7f": "alt+backspace",
}


class PasteFilter:
    """Replaces each ESC inside a bracketed paste by SUB, which whoever takes the paste will throw away.

    Works on pieces of input cut anywhere. Outside a paste nothing is changed and nothing is held back.
    """

    def __init__(self) -> None:
        self._pasting = False
        self._held = ""  # inside a paste: what may be the beginning of its end
        self._tail = ""  # outside: what may be the beginning of a start

    def feed(self, data: str) -> str:
        """The safe form of the next piece of input."""
        done: list[str] = []
        while data:
            data = self._inside(data, done) if self._pasting else self._outside(data, done)
        return "".join(done)

    def _outside(self, data: str, done: list[str]) -> str:
        """Pass on everything up to the start of a paste, and return what comes after it."""
        seen = self._tail + data
        at = seen.find(_START)
        if at < 0:
            done.append(data)
            self._tail = seen[-len(_START) + 1 :]
            return ""
        end = at + len(_START) - len(self._tail)
        done.append(data[:end])
        self._tail, self._pasting = "", True
        return data[end:]

    def _inside(self, data: str, done: list[str]) -> str:
        """Pass on the harmless form of a paste up to its end, and return what comes after it."""
        seen, self._held = self._held + data, ""
        at = seen.find(_END)
        if at >= 0:
            done.append(seen[:at].replace(_ESCAPE, _SUBSTITUTE) + _END)
            self._pasting = False
            return seen[at + len(_END) :]
        keep = next((n for n in range(len(_END) - 1, 0, -1) if seen.endswith(_END[:n])), 0)
        body, self._held = seen[: len(seen) - keep], seen[len(seen) - keep :]
        done.append(body.replace(_ESCAPE, _SUBSTITUTE))
        return ""


class InputParser(XTermParser):
    """Textual's parser of terminal input behind the filter, and with the keys it lacks."""

    def __init__(self, debug: bool = False) -> None:
        super().__init__(debug)
        self._paste_filter = PasteFilter()

    def feed(self, data: str) -> Iterable[Message]:
        if not data:  # the end of the input
            return super().feed(data)
        safe = self._paste_filter.feed(data)
        return super().feed(safe) if safe else ()

    def _sequence_to_key_events(self, sequence: str, alt: bool = False) -> Iterable[events.Key]:
        key = _KEYS.get(sequence)
        if key is not None:
            return (events.Key(key, None),)
        return super()._sequence_to_key_events(sequence, alt)


def mend_terminal_input() -> None:
    """Let Textual's drivers read the terminal with this parser: before an application starts."""
    for driver in (linux_driver, linux_inline_driver):
        vars(driver)["XTermParser"] = InputParser
