"""The transcript: a scrolling view of the event stream, drawn line by line.

No widget stands behind a message. Blocks near the screen have exact rows, the others estimated heights that
are corrected when they come near; what is being read stays in place meanwhile, and at the end the view stays
at the end. Text that streams in is laid out at most 30 times a second, and only its last row anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.reactive import var
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip

from dsv4_agent.loop.events import Event, Rewound, UserMessage
from dsv4_agent.tui.theme import PLAIN, palette_for
from dsv4_agent.tui.transcript import selection as selecting
from dsv4_agent.tui.transcript.blocks.block import Block
from dsv4_agent.tui.transcript.blocks.notice import NoticeBlock
from dsv4_agent.tui.transcript.blocks.shell import ShellBlock
from dsv4_agent.tui.transcript.frame import Detail, Frame
from dsv4_agent.tui.transcript.pace import Pace
from dsv4_agent.tui.transcript.projection import Projection
from dsv4_agent.tui.transcript.sheet import Sheet


class TranscriptView(ScrollView, can_focus=True):
    """Shows a session. Feed it with `apply` and friends; it never answers back into the loop."""

    DEFAULT_CSS = """
    TranscriptView {
        background: $background;
        color: $foreground;
        overflow-x: hidden;
        overflow-y: scroll;
        scrollbar-size-vertical: 1;
    }
    """
    ALLOW_SELECT = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("shift+up", "scroll_up", "Scroll up", show=False),
        Binding("shift+down", "scroll_down", "Scroll down", show=False),
    ]

    follow: var[bool] = var(True)
    """Does the view stay at the end? Set it to True to go there."""
    lines_below: var[int] = var(0)
    """Rows below the screen; an estimate while blocks there have not been laid out."""

    @dataclass
    class PositionChanged(Message):
        """`follow` or `lines_below` is another."""

        view: TranscriptView
        follow: bool
        lines_below: int

        @property
        def control(self) -> TranscriptView:
            """The sender, for `@on` selectors."""
            return self.view

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        name: str | None = None,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(name=name, id=id, classes=classes)
        self._clock = clock
        self._projection = Projection(clock)
        self._detail = Detail.FOLDED
        self._thinking = False
        self._sheet = Sheet(self._projection.blocks, Frame(80, PLAIN))
        self._anchor = (0, 0)
        self._settling = False
        self._reported = (True, 0)
        self._touched: set[int] = set()
        self._pace = Pace(self, self._flush, lambda: self._touch(self._projection.live))

    # What comes in

    def apply(self, event: Event) -> None:
        """Show what `event` tells; events that are not for the transcript are ignored."""
        touched = self._projection.apply(event)
        match event:
            case Rewound():
                self._anchor = (0, 0)
                self._lay_out(keep=False)
                self.follow = True
            case UserMessage():
                self._touch(touched)
                self.follow = True
            case _:
                self._touch(touched)

    def add_notice(self, kind: str, text: str) -> None:
        """A line of the application; `kind` is info, warning or error."""
        self._touch(self._projection.add(NoticeBlock(kind, text)))

    def add_shell(self, command: str, output: str, exit_code: int | None) -> None:
        """A `!` line that the user ran."""
        self._touch(self._projection.add(ShellBlock(command, output, exit_code)))

    def load(self, events: Iterable[Event]) -> None:
        """Append a stored session and go to its end. What it left open counts as interrupted."""
        for event in events:
            self._projection.apply(event)
        self._projection.close()
        self._lay_out(keep=False)
        self.follow = True

    def clear(self) -> None:
        """Forget the session."""
        self._projection.clear()
        self._anchor = (0, 0)
        self._lay_out(keep=False)
        self.follow = True

    # What is shown

    @property
    def detail(self) -> Detail:
        """How much of tools' output is shown."""
        return self._detail

    @property
    def thinking_shown(self) -> bool:
        """Is thinking unfolded?"""
        return self._thinking

    def toggle_thinking(self) -> None:
        """Fold or unfold all thinking."""
        self._thinking = not self._thinking
        self._lay_out()

    def cycle_detail(self) -> None:
        """The next level of detail of tools' output: 6 rows, 40 rows, all, 6 rows."""
        self._detail = self._detail.next
        self._lay_out()

    # What goes out

    def last_answer(self) -> str:
        """The last thing that the model said, as Markdown source made harmless; empty if there is none."""
        return self._projection.last_answer()

    def text(self, all: bool) -> str:
        """The session as plain text: turns and answers; with `all` thinking, tools and notices too."""
        return self._projection.text(all)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks, oldest first."""
        return tuple(self._projection.blocks)

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """The selected text without gutters; wrapped lines come as the line they are."""
        if selection.start is None and selection.end is None:
            # All of a long session need not be laid out to be copied.
            return self.text(all=True), "\n"
        return selecting.selected_text(self._sheet, selection), "\n"

    # Coalesced updates

    def _touch(self, indices: Iterable[int]) -> None:
        self._touched.update(indices)
        if self._touched and self.is_attached:
            self._pace.ask()

    def _flush(self) -> None:
        """Lay out what was touched, put the screen back on its place, draw."""
        self._sheet.tick(self._clock())
        live = self._projection.live
        first, last = self._near()
        for index in sorted(self._touched):
            # A live block lays out its tail only, which is cheaper than to estimate it.
            self._sheet.changed(index, near=index in live or first <= index <= last)
        self._touched.clear()
        self._settle()
        self.refresh()
        self._pace.keep_ticking(bool(live))

    def _near(self) -> tuple[int, int]:
        """First and last block of the screen and of one screen around it."""
        height, top = self._height, round(self.scroll_y)
        heights = self._sheet.heights
        if self.follow:
            return heights.find(top - height)[0], len(self._projection.blocks)
        return heights.find(top - height)[0], heights.find(top + 2 * height)[0]

    # Layout and position

    @property
    def _height(self) -> int:
        return max(self.scrollable_content_region.height, 1)

    def _lay_out(self, *, keep: bool = True) -> None:
        """Lay out everything anew; with `keep` the line at the top of the screen stays there."""
        place = self._sheet.place(*self._anchor) if keep and not self.follow else None
        region = self.scrollable_content_region
        palette = self._sheet.frame.palette
        if self.is_attached:
            palette = palette_for(self.app.current_theme, no_color=self.app.no_color)
        width = region.width or self._sheet.frame.width
        self._sheet.lay_out(Frame(width, palette, self._detail, self._thinking, self._clock()))
        self._touched.clear()
        if place is not None and self._projection.blocks:
            self._anchor = (place.block, self._sheet.row_of(place))
        self._settle()
        self.refresh()
        self._pace.keep_ticking(bool(self._projection.live) and self.is_attached)

    def _settle(self) -> None:
        """Make heights near the screen exact, then scroll to the anchor or to the end."""
        if not self.is_attached or not self.size:
            return
        sheet, height = self._sheet, self._height
        if self.follow:
            sheet.measure_around(len(sheet.heights), 0, 2 * height, 0)
            self._scroll_exactly(sheet.heights.total - height)
        elif len(sheet.heights):
            block, row = self._anchor
            sheet.measure_around(block, row, height, 2 * height)
            row = min(row, max(sheet.heights[block] - 1, 0))
            self._scroll_exactly(sheet.heights.start(block) + row)
        self._report()

    def _scroll_exactly(self, top: int) -> None:
        self._settling = True
        try:
            size = Size(self.scrollable_content_region.width, self._sheet.heights.total)
            if size != self.virtual_size:
                self.virtual_size = size
            self.scroll_target_y = self.scroll_y = max(top, 0)
        finally:
            self._settling = False
        self._anchor = self._sheet.heights.find(round(self.scroll_y))

    def _report(self) -> None:
        below = max(self._sheet.heights.total - round(self.scroll_y) - self._height, 0)
        self._set_follow(self.follow or below == 0)
        self.lines_below = below
        if self._reported != (self.follow, below):
            self._reported = (self.follow, below)
            self.post_message(self.PositionChanged(self, self.follow, below))

    def _set_follow(self, follow: bool) -> None:
        """Set the flag without moving."""
        was, self._settling = self._settling, True
        self.follow = follow
        self._settling = was

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Somebody scrolled: by key, wheel or bar, unless the view itself keeps its place."""
        super().watch_scroll_y(old_value, new_value)
        if self._settling or round(old_value) == round(new_value):
            return
        self._anchor = self._sheet.heights.find(round(new_value))
        self._set_follow(round(new_value) >= self.max_scroll_y)
        self._settle()

    def watch_follow(self, follow: bool) -> None:
        """Going to follow goes to the end."""
        if follow and not self._settling:
            self._settle()
            self.refresh()

    def scroll_to(self, x: float | None = None, y: float | None = None, **options: object) -> None:
        """Scroll at once: an animation would fight with heights that are corrected on the way."""
        self._scroll_to(x, y, animate=False)

    def action_scroll_end(self) -> None:
        """Go to the end and stay there."""
        self.follow = True

    # Textual

    def on_mount(self) -> None:
        """Take the colours of the app's theme."""
        self.app.theme_changed_signal.subscribe(self, lambda _: self._lay_out())
        self._lay_out()

    def on_resize(self, event: events.Resize) -> None:
        """Another width lays out anew, another height only moves."""
        if self.scrollable_content_region.width != self._sheet.frame.width:
            self._lay_out()
        else:
            self._settle()
            self.refresh()

    def selection_updated(self, selection: Selection | None) -> None:
        """Draw the selection."""
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Line `y` of the screen."""
        width, base = self.size.width, self.rich_style
        line = round(self.scroll_y) + y
        heights = self._sheet.heights
        if line >= heights.total:
            number = selecting.key(len(heights), 0)
            return Strip.blank(width, base).apply_offsets(0, number)
        block, inside = heights.find(line)
        row = self._sheet.row(block, inside)
        number = selecting.key(block, inside)
        selection = self.text_selection
        if selection is not None:
            row = replace(row, spans=selecting.highlighted(row, selection, number, self._selection_style))
        return row.strip(width).apply_style(base).apply_offsets(-row.gutter_length, number)

    @property
    def _selection_style(self) -> Style:
        return self.screen.get_component_rich_style("screen--selection")
