"""A Markdown document as rows.

The tokens come from markdown-it; HTML stays text, images and links are words with their address behind them,
never something to click. Whatever cannot be laid out well (huge, or nested beyond reason) is for the caller
to show as plain text: `is_suited` tells.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Final

from dsv4_agent.tui.theme import Palette
from dsv4_agent.tui.transcript.highlight import highlighted
from dsv4_agent.tui.transcript.markdown.inline import inline_lines
from dsv4_agent.tui.transcript.markdown.table import Table, table_rows
from dsv4_agent.tui.transcript.rows import BLANK, Row, Span
from dsv4_agent.tui.transcript.wrapping import cells, expand, wrap_spans
from dsv4_agent.workbench.plain_text import plain

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_LONGEST_TEXT: Final = 40_000
_LONGEST_LINE: Final = 4_000
_DEEP: Final = re.compile(r"^[\s>*+\-0-9.)]{60}", re.MULTILINE)
_BRACKETS: Final = re.compile(r"[\[\]!*_~`<&]{40}")
_LEAST: Final = 8
"""Cells of text that nesting always leaves."""


def is_suited(text: str) -> bool:
    """Can `text` be parsed and laid out in reasonable time without losing any of it?"""
    if len(text) > _LONGEST_TEXT or _BRACKETS.search(text) or _DEEP.search(text):
        return False
    return max(map(len, text.split("\n"))) <= _LONGEST_LINE


def markdown_rows(text: str, width: int, palette: Palette) -> list[Row]:
    """The rows of a harmless and suited Markdown `text` within `width` cells."""
    layout = _Layout(width, palette)
    for token in _parser().parse(text):
        layout.take(token)
    while layout.rows and not layout.rows[-1].spans and not layout.rows[-1].gutter:
        layout.rows.pop()
    return layout.rows


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"maxNesting": 80}).enable(["table", "strikethrough"])


@dataclass(slots=True)
class _Level:
    """An open list item or quote: `first` stands before its first line, `rest` before the others."""

    first: Span
    rest: Span
    copied: bool
    used: bool = False


@dataclass(slots=True)
class _List:
    number: int | None


@dataclass(slots=True)
class _Layout:
    width: int
    palette: Palette
    rows: list[Row] = field(default_factory=list)
    levels: list[_Level] = field(default_factory=list)
    lists: list[_List] = field(default_factory=list)
    heading: int = 0
    table: Table | None = None
    gap: bool = False

    def take(self, token: Token) -> None:
        """Lay out one token of the document."""
        palette = self.palette
        match token.type:
            case "heading_open":
                self.heading = int(token.tag[1:])
            case "heading_close":
                self.heading, self.gap = 0, True
            case "inline" if self.table is not None:
                self.table.cell(inline_lines(token, palette.text, palette))
            case "inline":
                self._text(token)
            case "paragraph_close":
                self.gap = not token.hidden
            case "bullet_list_open" | "ordered_list_open":
                start = token.attrGet("start")
                ordered = token.type.startswith("ordered")
                self.lists.append(_List(int(start if start is not None else 1) if ordered else None))
            case "bullet_list_close" | "ordered_list_close":
                self.lists.pop()
                self.gap = not self.lists
            case "list_item_open":
                self._open_item()
            case "blockquote_open":
                self.levels.append(_Level(("▎ ", palette.rule), ("▎ ", palette.rule), copied=False))
            case "list_item_close" | "blockquote_close":
                self._close_level(token.type)
            case "fence" | "code_block":
                self._code(token.content, token.info.split()[0] if token.info.strip() else "")
            case "hr":
                self._emit([("─" * min(self.room, 40), palette.rule)])
                self.gap = True
            case "html_block":
                for line in plain(token.content.rstrip("\n")).split("\n"):
                    self._emit([(expand(line), palette.muted)])
                self.gap = True
            case _:
                self._take_table(token)

    def _take_table(self, token: Token) -> None:
        match token.type:
            case "table_open":
                self.table = Table()
            case "tr_open" if self.table is not None:
                self.table.row()
            case "table_close" if self.table is not None:
                rows = table_rows(self.table, self.room, self.palette)
                self.table = None
                for row in rows:
                    self._place(row)
                self.gap = True

    @property
    def room(self) -> int:
        """Cells for text behind the open levels."""
        return min(max(self.width - self._indent(), _LEAST), self.width)

    def _indent(self) -> int:
        return sum(cells(level.rest[0]) for level in self._shown())

    def _shown(self) -> list[_Level]:
        """The open levels, the inner ones without indentation where the screen is too narrow for them."""
        shown: list[_Level] = []
        used = 0
        for level in self.levels:
            used += cells(level.rest[0])
            if used > self.width - _LEAST:
                break
            shown.append(level)
        return shown

    def _open_item(self) -> None:
        current = self.lists[-1]
        if current.number is None:
            sign = "• "
        else:
            sign = f"{current.number}. "
            current.number += 1
        style = self.palette.muted
        self.levels.append(_Level((sign, style), (" " * len(sign), style), copied=True))

    def _close_level(self, kind: str) -> None:
        if not self.levels[-1].used:
            self._emit([])
        self.levels.pop()
        if kind == "blockquote_close":
            self.gap = True

    def _text(self, token: Token) -> None:
        palette = self.palette
        style = palette.text
        if self.heading:
            style = palette.heading if self.heading <= 2 else palette.strong
        elif any(level.first[0] == "▎ " for level in self.levels):
            style = palette.quote
        for line in inline_lines(token, style, palette):
            self._emit(line)

    def _code(self, content: str, language: str) -> None:
        bar = (("│ ", self.palette.rule),)
        source = expand_lines(plain(content.rstrip("\n")))
        width = max(self.room - 2, 1)
        for spans in highlighted(source, language or "text", self.palette):
            for row in wrap_spans(spans, width, words=False):
                self._place(replace(row, gutter=bar))
        self.gap = True

    def _emit(self, spans: Sequence[Span]) -> None:
        for row in wrap_spans(spans, self.room) if spans else iter((BLANK,)):
            self._place(row)

    def _place(self, row: Row) -> None:
        """Add a row behind the signs of the open levels, after a blank row where one is due."""
        if self.gap and self.rows:
            quotes = [level.rest for level in self._shown() if not level.copied and level.used]
            self.rows.append(Row(gutter=tuple(quotes)))
        self.gap = False
        gutter, body = self._signs(row.joint == "\n" and not row.gutter)
        self.rows.append(Row((*body, *row.spans), (*gutter, *row.gutter), row.joint, row.fill))

    def _signs(self, starts_line: bool) -> tuple[list[Span], list[Span]]:
        """Signs for gutter and text. List signs are copied with the text; bars and wrapped lines are not."""
        gutter: list[Span] = []
        body: list[Span] = []
        for level in self._shown():
            sign = level.rest if level.used else level.first
            (body if starts_line and (level.copied or body) else gutter).append(sign)
            level.used = True
        return gutter, body


def expand_lines(text: str) -> str:
    """`text` with the tabs of each line as spaces."""
    return "\n".join(map(expand, text.split("\n"))) if "\t" in text else text
