"""A scrolling piece of harmless rows: a command, a diff, a page."""

from __future__ import annotations

from collections.abc import Callable

from rich.style import Style
from textual import events
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from dsv4_agent.tui.theme import Palette, palette_for
from dsv4_agent.tui.transcript.diff import diff_rows
from dsv4_agent.tui.transcript.lines import text_rows
from dsv4_agent.tui.transcript.rows import BLANK, Row
from dsv4_agent.workbench.plain_text import plain

MakeRows = Callable[[int, Palette], list[Row]]
"""Rows for a width in cells and a palette. Everything in them must have gone through `plain`."""


def text_of(text: str) -> MakeRows:
    """Foreign text, control and bidirectional characters escaped."""
    return lambda width, palette: list(text_rows(plain(text), palette.text, width))


def patch_of(patch: str) -> MakeRows:
    """A git patch: each file's header, then its hunks in colours."""
    return lambda width, palette: _patch_rows(patch, width, palette)


def _patch_rows(patch: str, width: int, palette: Palette) -> list[Row]:
    rows: list[Row] = []
    for part in ("\n" + patch).split("\ndiff --git ")[1:]:
        head, _, hunks = part.partition("\n@@ ")
        names = [line[6:] for line in head.split("\n") if line.startswith(("+++ b/", "--- a/"))]
        path = names[-1] if names else head.split("\n", 1)[0].rpartition(" b/")[2]
        rows += text_rows(plain(path), palette.heading, width)
        if hunks:
            rows += diff_rows(f"@@ {hunks}", path, width, palette)
        else:
            rows += text_rows("  (no text: binary, renamed, or only its mode)", palette.muted, width)
        rows.append(BLANK)
    return rows


class Reading(ScrollView, can_focus=False):
    """Asks for the height of its rows; scrolled by whoever holds the keyboard."""

    DEFAULT_CSS = """
    Reading {
        height: auto;
        background: transparent;
        overflow-x: hidden;
        scrollbar-size-vertical: 1;
    }
    """

    def __init__(self, rows: MakeRows, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._make = rows
        self._rows: list[Row] = []
        self._width = 0

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        self._lay_out(width)
        return len(self._rows)

    def on_resize(self, event: events.Resize) -> None:
        self._lay_out(self.scrollable_content_region.width)
        self.virtual_size = Size(self._width, len(self._rows))
        self.refresh()

    def remake(self) -> None:
        """Make the rows anew: they have become others."""
        self._width = 0

    @property
    def hidden_below(self) -> int:
        """Rows that are below what is seen."""
        return max(0, len(self._rows) - round(self.scroll_offset.y) - self.size.height)

    def render_line(self, y: int) -> Strip:
        number = y + round(self.scroll_offset.y)
        row = self._rows[number] if number < len(self._rows) else BLANK
        background = Style.from_color(bgcolor=self.background_colors[1].rich_color)
        return row.strip(self.size.width).apply_style(background)

    def _lay_out(self, width: int) -> None:
        if width == self._width or width <= 0:
            return
        self._width = width
        palette = palette_for(self.app.current_theme, no_color=self.app.no_color)
        self._rows = self._make(max(1, width - 1), palette)
