"""Text selection: which part of a row is selected, and the text between two places.

Places are stable numbers, not positions on the screen: block and row share one integer, so a selection
stays where it is while the transcript grows or heights above are corrected.
"""

from __future__ import annotations

from typing import Final

from rich.style import Style
from textual.geometry import Offset
from textual.selection import Selection

from dsv4_agent.tui.transcript.rows import Row, Span
from dsv4_agent.tui.transcript.sheet import Sheet

_ROWS: Final = 1 << 24


def key(block: int, row: int) -> int:
    """The number of a row."""
    return block * _ROWS + row


def highlighted(row: Row, selection: Selection, number: int, style: Style) -> tuple[Span, ...]:
    """The spans of row `number` with the selected part in `style`."""
    found = selection.get_span(number)
    if found is None:
        return row.spans
    start, end = max(found[0], 0), found[1]
    spans: list[Span] = []
    offset = 0
    for text, base in row.spans:
        length = len(text)
        first = min(max(start - offset, 0), length)
        last = length if end < 0 and not _one_line(selection, number) else min(max(end - offset, 0), length)
        last = max(first, last)
        spans += [(text[:first], base), (text[first:last], base + style), (text[last:], base)]
        offset += length
    return tuple(span for span in spans if span[0])


def _one_line(selection: Selection, number: int) -> bool:
    """Does the end lie in this row? Then a negative one is a place in the gutter, not "to the end"."""
    return selection.end is not None and selection.end.y == number


def selected_text(sheet: Sheet, selection: Selection) -> str:
    """The text between the two ends, wrapped lines joined, gutters left out."""
    count = len(sheet.heights)
    if not count:
        return ""
    start = selection.start or Offset(0, 0)
    end = selection.end
    first_block, first_row = divmod(start.y, _ROWS)
    last_block, last_row = divmod(end.y, _ROWS) if end is not None else (count - 1, _ROWS)
    parts: list[str] = []
    for block in range(max(first_block, 0), min(last_block, count - 1) + 1):
        for number, row in enumerate(sheet.rows_with_gap(block)):
            if (block, number) < (first_block, first_row) or (block, number) > (last_block, last_row):
                continue
            text = row.text
            if end is not None and (block, number) == (last_block, last_row):
                text = text[: max(end.x, 0)]
            if (block, number) == (first_block, first_row):
                text = text[max(start.x, 0) :]
            parts += [row.joint, text] if parts else [text]
    return "".join(parts)
