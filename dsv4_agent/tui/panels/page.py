"""Something to read, or to confirm."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Static

from dsv4_agent.tui.panels.arming import Arming
from dsv4_agent.tui.panels.fitted import Fitted
from dsv4_agent.tui.panels.reading import MakeRows, Reading
from dsv4_agent.workbench.plain_text import plain_line


class PagePanel(Fitted, can_focus=True):
    """A page between transcript and composer; any of Escape, q and Enter closes it."""

    DEFAULT_CSS = """
    PagePanel {
        height: auto;
        border: round $primary;
        padding: 0 1;
    }
    """
    SHARE = 0.75
    MOST = 40
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "close", show=False),
        Binding("up,k,shift+up", "scroll(-1)", show=False),
        Binding("down,j,shift+down", "scroll(1)", show=False),
        Binding("pageup,b", "page(-1)", show=False),
        Binding("pagedown,space", "page(1)", show=False),
        Binding("home,g", "end(0)", show=False),
        Binding("end,G", "end(1)", show=False),
    ]

    class Closed(Message):
        """The page was read."""

    def __init__(self, title: str, rows: MakeRows) -> None:
        super().__init__()
        self._rows = rows
        self.border_title = Content(plain_line(title))
        self.border_subtitle = Content("↑↓ scroll · Esc closes")

    def compose(self) -> ComposeResult:
        yield Reading(self._rows)

    def action_close(self) -> None:
        self.post_message(self.Closed())

    def action_scroll(self, lines: int) -> None:
        self.query_one(Reading).scroll_relative(y=lines, animate=False)

    def action_page(self, direction: int) -> None:
        reading = self.query_one(Reading)
        reading.scroll_relative(y=direction * max(1, reading.size.height - 1), animate=False)

    def action_end(self, bottom: int) -> None:
        reading = self.query_one(Reading)
        reading.scroll_end(animate=False) if bottom else reading.scroll_home(animate=False)


class ConfirmPanel(Widget, can_focus=True):
    """A yes or no; posts `Confirmed` with its command line, or `Declined`."""

    DEFAULT_CSS = """
    ConfirmPanel { height: auto; border: round $warning; padding: 0 1; }
    ConfirmPanel > Static { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "yes", "Yes"),
        Binding("n,escape", "no", "No"),
    ]

    class Confirmed(Message):
        """Yes: run `line`."""

        def __init__(self, line: str) -> None:
            super().__init__()
            self.line = line

    class Declined(Message):
        """No."""

    def __init__(self, question: str, line: str) -> None:
        super().__init__()
        self._question = question
        self._line = line
        self._arming = Arming()
        self.border_subtitle = Content("y yes · n no")

    def compose(self) -> ComposeResult:
        yield Static(Content(plain_line(self._question)))

    def on_mount(self) -> None:
        self.call_after_refresh(self._arming.begin)

    async def _on_key(self, event: events.Key) -> None:
        self._arming.take(event, self.screen.active_bindings.get)

    def action_yes(self) -> None:
        self.post_message(self.Confirmed(self._line))

    def action_no(self) -> None:
        self.post_message(self.Declined())
