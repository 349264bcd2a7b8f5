"""Choose one of a list; typing narrows it down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option as ListOption

from dsv4_agent.chat.outcomes import Option, Pick
from dsv4_agent.tui.panels.arming import Arming
from dsv4_agent.tui.panels.fitted import Fitted
from dsv4_agent.workbench.plain_text import plain_line

_FILTER_FROM = 9
"""So many options before a line to narrow them down is worth its room."""


class PickPanel(Fitted):
    """Posts `Picked`, or `Dismissed` on Escape."""

    DEFAULT_CSS = """
    PickPanel {
        height: auto;
        border: round $primary;
        padding: 0 1;
        & > Input { border: none; height: 1; padding: 0; background: transparent; display: none; }
        &.-long > Input { display: block; }
        & > OptionList { height: auto; border: none; padding: 0; background: transparent; }
    }
    """
    SHARE = 0.6
    GIVES = "OptionList"
    MOST = 14
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", show=False),
        Binding("up", "move('up')", show=False),
        Binding("down", "move('down')", show=False),
        Binding("enter", "take", show=False),
    ]

    @dataclass
    class Picked(Message):
        """The command line that was chosen."""

        line: str

    class Dismissed(Message):
        """Nothing was chosen."""

    def __init__(self, pick: Pick, *, unasked: bool = False) -> None:
        """`unasked`: the person did not open it and may be writing; that must not choose."""
        super().__init__()
        self._pick = pick
        self._arming = Arming() if unasked else None
        self.border_title = Content(plain_line(pick.title))
        self.border_subtitle = Content("Enter chooses · Esc leaves")

    def compose(self) -> ComposeResult:
        yield Input(placeholder="type to narrow down", compact=True)
        yield OptionList(*self._entries(self._pick.options), markup=False, compact=True)

    def on_mount(self) -> None:
        long = len(self._pick.options) >= _FILTER_FROM
        self.set_class(long, "-long")
        listing = self.query_one(OptionList)
        values = [option.value for option in self._pick.options]
        if self._pick.selected in values:
            listing.highlighted = values.index(self._pick.selected)
        (self.query_one(Input) if long else listing).focus()
        if self._arming is not None:
            self.call_after_refresh(self._arming.begin)

    async def _on_key(self, event: events.Key) -> None:
        if self._arming is not None:
            self._arming.take(event, self.screen.active_bindings.get)

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        words = event.value.lower().split()
        shown = [o for o in self._pick.options if all(w in f"{o.label} {o.detail}".lower() for w in words)]
        listing = self.query_one(OptionList)
        listing.clear_options()
        listing.add_options(self._entries(shown))
        listing.highlighted = 0 if shown else None

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.post_message(self.Picked(f"{self._pick.command} {event.option.id}"))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.action_take()

    def action_take(self) -> None:
        listing = self.query_one(OptionList)
        if listing.highlighted is not None:
            listing.action_select()

    def action_move(self, direction: str) -> None:
        listing = self.query_one(OptionList)
        listing.action_cursor_up() if direction == "up" else listing.action_cursor_down()

    def action_dismiss(self) -> None:
        self.post_message(self.Dismissed())

    def on_descendant_blur(self, event: events.DescendantBlur) -> None:
        event.stop()

    @staticmethod
    def _entries(options: Sequence[Option]) -> list[ListOption]:
        return [ListOption(_shown(option), id=option.value) for option in options]


def _shown(option: Option) -> Content:
    label = Content(plain_line(option.label, 90))
    if not option.detail:
        return label
    return Content.assemble(label, "  ", (plain_line(option.detail, 90), "dim"))
