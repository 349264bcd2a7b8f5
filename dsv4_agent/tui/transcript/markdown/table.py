"""Markdown tables: columns as wide as they need, shrunk together where the screen is narrow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Final

from rich.style import Style

from dsv4_agent.tui.theme import Palette
from dsv4_agent.tui.transcript.rows import Row, Span
from dsv4_agent.tui.transcript.wrapping import cells, wrap_spans

_LEAST: Final = 5
_BETWEEN: Final = " │ "


@dataclass(slots=True)
class Table:
    """The cells of a table as they come, the first row being the heads."""

    lines: list[list[list[Span]]] = field(default_factory=list)

    def row(self) -> None:
        """Begin a row."""
        self.lines.append([])

    def cell(self, lines: Sequence[Sequence[Span]]) -> None:
        """Add a cell to the row."""
        self.lines[-1].append([span for line in lines for span in line])


def table_rows(table: Table, width: int, palette: Palette) -> list[Row]:
    """The rows of `table` within `width` cells."""
    columns = max((len(line) for line in table.lines), default=0)
    if columns == 0:
        return []
    room = width - len(_BETWEEN) * (columns - 1)
    if room < _LEAST * columns:
        return _as_list(table, width, palette)
    wanted = [max(_wanted(line, column) for line in table.lines) for column in range(columns)]
    widths = _shared(wanted, room)
    rows: list[Row] = []
    for number, line in enumerate(table.lines):
        rows += _line(line, widths, palette, head=number == 0)
        if number == 0:
            rows.append(Row((("─┼─".join("─" * size for size in widths), palette.rule),)))
    return rows


def _wanted(line: Sequence[Sequence[Span]], column: int) -> int:
    return max(sum(cells(text) for text, _ in line[column]), 1) if column < len(line) else 1


def _shared(wanted: Sequence[int], room: int) -> list[int]:
    """Widths that fit in `room`: narrow columns keep theirs, the wide ones share what is left."""
    widths = [0] * len(wanted)
    left, open_columns = room, sorted(range(len(wanted)), key=lambda column: wanted[column])
    while open_columns:
        share = left // len(open_columns)
        column = open_columns.pop(0)
        widths[column] = min(wanted[column], share)
        left -= widths[column]
    return widths


def _line(
    line: Sequence[Sequence[Span]], widths: Sequence[int], palette: Palette, *, head: bool
) -> list[Row]:
    wrapped = [
        list(wrap_spans(_bold(cell) if head else cell, size)) if cell else []
        for cell, size in zip_longest(line[: len(widths)], widths, fillvalue=())
        if isinstance(size, int)
    ]
    rows: list[Row] = []
    for parts in zip_longest(*wrapped):
        spans: list[Span] = []
        for column, (part, size) in enumerate(zip(parts, widths, strict=True)):
            pieces = part.spans if part is not None else ()
            if column:
                spans.append((_BETWEEN, palette.rule))
            spans += pieces
            padding = size - sum(cells(text) for text, _ in pieces)
            if padding > 0 and column < len(widths) - 1:
                spans.append((" " * padding, palette.text))
        rows.append(Row(tuple(spans)))
    return rows


def _bold(cell: Sequence[Span]) -> list[Span]:
    return [(text, style + Style(bold=True)) for text, style in cell]


def _as_list(table: Table, width: int, palette: Palette) -> list[Row]:
    """For a screen too narrow for columns: the cells one below the other, rows apart."""
    rows: list[Row] = []
    for number, line in enumerate(table.lines):
        if number:
            rows.append(Row((("─" * min(width, 8), palette.rule),)))
        for cell in line:
            if cell:
                rows += wrap_spans(_bold(cell) if number == 0 else cell, width)
    return rows
