"""Text that grows at its end: what is laid out already stays, only the last row is laid out again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.style import Style

from dsv4_agent.tui.transcript.rows import Row, Span
from dsv4_agent.tui.transcript.wrapping import breaks, expand
from dsv4_agent.workbench.plain_text import plain


class LiveText:
    """A growing text and its rows. `append` is cheap; `rows` costs what was appended since the last call."""

    def __init__(self) -> None:
        self._deltas: list[str] = []
        self._laid_out = 0
        self._held = ""
        self._layout: tuple[int, Style] | None = None
        self._gutter: tuple[Span, ...] = ()
        self._rows: list[Row] = []
        self._tail = ""
        self._tail_rows = 0
        self._tail_joint = "\n"
        self._last_piece = ""
        self.deltas = 0
        self.characters = 0

    def append(self, delta: str) -> None:
        """Add `delta` at the end."""
        self._deltas.append(delta)
        self.deltas += 1
        self.characters += len(delta)

    @property
    def text(self) -> str:
        """All of it, as it came."""
        return "".join(self._deltas)

    def rows(self, width: int, style: Style, gutter: Sequence[Span], head: Sequence[Row] = ()) -> list[Row]:
        """`head` and the rows of the text. The list is the object's own and changes with the next call."""
        layout = (width, style)
        if layout != self._layout or tuple(gutter) != self._gutter:
            self._restart(layout, tuple(gutter), len(head))
        self._rows[: len(head)] = head
        fresh = self._held + "".join(self._deltas[self._laid_out :])
        self._laid_out = len(self._deltas)
        # A carriage return may be the first half of a line end that comes with the next delta.
        self._held = "\r" if fresh.endswith("\r") else ""
        self._lay_out(plain(fresh[: len(fresh) - len(self._held)]), width, style)
        return self._rows

    def _restart(self, layout: tuple[int, Style], gutter: tuple[Span, ...], head: int) -> None:
        self._layout, self._gutter = layout, gutter
        self._rows = [Row()] * head
        self._laid_out, self._held = 0, ""
        self._tail, self._tail_rows, self._tail_joint = "", 0, "\n"

    def _lay_out(self, fresh: str, width: int, style: Style) -> None:
        if not fresh:
            return
        del self._rows[len(self._rows) - self._tail_rows :]
        lines = (self._tail + fresh).split("\n")
        for line in lines[:-1]:
            self._rows += self._wrapped(line, width, style)
            self._tail_joint = "\n"
        last = self._wrapped(lines[-1], width, style)
        # All rows but the last are final; spaces that a wrap swallowed belong to the joint of the last.
        self._rows += last
        self._tail_rows = 1
        self._tail = self._last_piece
        self._tail_joint = last[-1].joint

    def _wrapped(self, line: str, width: int, style: Style) -> list[Row]:
        line = expand(line)
        rows: list[Row] = []
        previous = start = 0
        for start, end in breaks(line, width, words=True):
            joint = line[previous:start] if start else self._tail_joint
            spans: tuple[Span, ...] = ((line[start:end], style),) if end > start else ()
            rows.append(Row(spans, self._gutter, joint))
            previous = end
        self._last_piece = line[start:]
        return rows


def ended(rows: Sequence[Row], limit: int) -> list[Row]:
    """The last `limit` of `rows`, the first of them as the start of a line."""
    last = list(rows[len(rows) - limit :])
    return [replace(last[0], joint="\n"), *last[1:]] if last else []
