"""A row of the transcript: styled text in one line of cells, and how it is copied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

Span = tuple[str, Style]
"""Text without line feeds, tabs or control characters, and its style."""


@dataclass(frozen=True, slots=True)
class Row:
    """`gutter` is shown but never copied; `spans` is the text.

    `joint` is what a copy puts between the row above and this one: a line feed, or for a wrapped line the
    spaces that the wrap swallowed. `fill` paints the cells to the right of the text.
    """

    spans: tuple[Span, ...] = ()
    gutter: tuple[Span, ...] = ()
    joint: str = "\n"
    fill: Style | None = None

    @property
    def text(self) -> str:
        """The text as it is copied, without the gutter."""
        return "".join(text for text, _ in self.spans)

    @property
    def gutter_length(self) -> int:
        """Characters in the gutter."""
        return sum(len(text) for text, _ in self.gutter)

    def strip(self, width: int) -> Strip:
        """The row as exactly `width` cells."""
        return Strip([Segment(text, style) for text, style in self.gutter + self.spans]).adjust_cell_length(
            width, self.fill
        )


BLANK = Row()


def strips(rows: Iterable[Row], width: int) -> list[Strip]:
    """`rows` as strips of exactly `width` cells."""
    return [row.strip(width) for row in rows]


def with_gutter(rows: Iterable[Row], first: Sequence[Span], rest: Sequence[Span]) -> list[Row]:
    """`rows` with one more gutter on their left: `first` before the first row, `rest` before the others."""
    head, tail = tuple(first), tuple(rest)
    return [
        replace(row, gutter=(head if index == 0 else tail) + row.gutter) for index, row in enumerate(rows)
    ]


def copied(rows: Sequence[Row]) -> str:
    """The text of whole rows as a copy gives it: wrapped lines are one line again."""
    return "".join(row.text if index == 0 else row.joint + row.text for index, row in enumerate(rows))
