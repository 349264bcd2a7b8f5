"""Server-sent events out of bytes that come in any pieces (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import codecs

LINE_LIMIT = 16 << 20
"""Bytes of one line, and of one event's data."""


class TooLongError(ValueError):
    """A line or an event has no end in sight."""


class EventStream:
    """Feed it bytes; it gives the data of each event that is complete.

    Line ends may be CR, LF or both, also torn apart; bytes that are no UTF-8 become U+FFFD. Comments (which
    servers send to keep a connection alive) and fields other than `data` are passed over. `lines` counts all
    that were complete.
    """

    def __init__(self) -> None:
        self.lines = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._line: list[str] = []
        self._size = 0
        self._data: list[str] = []
        self._data_size = 0
        self._after_return = False
        self._begun = False

    def feed(self, data: bytes) -> list[str]:
        """Take the next bytes. Raises `TooLongError`."""
        return self._take(self._decoder.decode(data))

    def end(self) -> list[str]:
        """Nothing follows: what was begun counts as complete, for many servers forget the last blank line."""
        events = self._take(self._decoder.decode(b"", True) + "\n\n")
        self._line, self._size = [], 0
        return events

    def _take(self, text: str) -> list[str]:
        if text and not self._begun:
            self._begun = True
            text = text.removeprefix("\ufeff")
        if self._after_return and text:
            text = text.removeprefix("\n")
            self._after_return = False
        if text.endswith("\r"):
            self._after_return = True
        events: list[str] = []
        first, *rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._extend(first)
        for piece in rest:
            self._end_line(events)
            self._extend(piece)
        return events

    def _extend(self, piece: str) -> None:
        if not piece:
            return
        self._line.append(piece)
        self._size += len(piece)
        if self._size > LINE_LIMIT:
            raise TooLongError(f"a line of over {LINE_LIMIT >> 20} MiB")

    def _end_line(self, events: list[str]) -> None:
        line, self._line, self._size = "".join(self._line), [], 0
        self.lines += 1
        if not line:
            if self._data:
                events.append("\n".join(self._data))
            self._data, self._data_size = [], 0
            return
        name, _, value = line.partition(":")
        if name != "data":
            return
        value = value.removeprefix(" ")
        self._data_size += len(value)
        if self._data_size > LINE_LIMIT:
            raise TooLongError(f"an event of over {LINE_LIMIT >> 20} MiB")
        self._data.append(value)
