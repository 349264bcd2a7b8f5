"""The least that a Textual program can be: a text area, and a log that it can stream words into.

python -m bench.tui.bare [WORDS]: with WORDS, Ctrl+S streams so many of them, 200 a second.
"""

from __future__ import annotations

import asyncio
import sys
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Log, TextArea

from bench.tui.words import ENDS, PAUSE, words


class Bare(App[None]):
    """One input, one output."""

    ENABLE_COMMAND_PALETTE = False
    CSS = "Log { height: 1fr; } TextArea { height: 5; }"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+s", "stream", priority=True)]

    _ends = iter(ENDS)

    def compose(self) -> ComposeResult:
        yield Log()
        yield TextArea()

    def on_mount(self) -> None:
        self.query_one(TextArea).focus()

    def action_stream(self) -> None:
        self.run_worker(self._stream(int(sys.argv[1])))

    async def _stream(self, count: int) -> None:
        log = self.query_one(Log)
        for number, word in enumerate(words(count)):
            log.write(word + ("\n" if number % 12 == 11 else " "))
            await asyncio.sleep(PAUSE)
        log.write(next(self._ends))


if __name__ == "__main__":
    Bare().run()
