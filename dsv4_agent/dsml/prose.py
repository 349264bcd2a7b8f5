"""Where in a text a block of calls may begin: at a line start, outside fenced code."""

from __future__ import annotations

import re

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_HEAD = 80


class LineTracker:
    """Follows text to know, at its end, whether a line starts there and whether a code fence is open."""

    def __init__(self) -> None:
        self._head = ""
        self._long = False
        self._fence = ""
        self._last = ""

    @property
    def at_line_start(self) -> bool:
        """Nothing but the line break (or the start) stands before this point."""
        return not self._head

    @property
    def line(self) -> str:
        """The current line up to here (its first characters, when it is long)."""
        return self._head

    @property
    def fenced(self) -> bool:
        """A ``` or ~~~ fence is open."""
        return bool(self._fence)

    @property
    def last(self) -> str:
        """The character before this point; empty at the start."""
        return self._last

    def advance(self, text: str) -> None:
        """Take more text into account."""
        self._last = text[-1:] or self._last
        start = 0
        while (end := text.find("\n", start)) >= 0:
            self._extend(text, start, end)
            self._line_done()
            start = end + 1
        self._extend(text, start, len(text))

    def _extend(self, text: str, start: int, end: int) -> None:
        room = _HEAD - len(self._head)
        self._head += text[start : min(end, start + room)]
        self._long = self._long or end - start > room

    def _line_done(self) -> None:
        found = _FENCE.match(self._head)
        if found is not None:
            run, rest = found.group(1), self._head[found.end() :]
            if not self._fence:
                if run[0] == "~" or "`" not in rest:
                    self._fence = run
            elif run.startswith(self._fence) and not rest.strip() and not self._long:
                self._fence = ""
        self._head = ""
        self._long = False
