"""The list above the input box: completions, or prompts found in the history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from textual import events
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

from dsv4_agent.tui.composer.completion import Option
from dsv4_agent.workbench.plain_text import plain_line

ROWS: Final = 8
_DETAIL_COLUMN: Final = 24


class OptionPopup(Widget):
    """Options to choose from with the keys of the input box; hidden while there are none."""

    DEFAULT_CSS = """
    OptionPopup {
        height: auto;
        display: none;
        padding: 0 1;
        background: $panel;
        color: $foreground;
        text-wrap: nowrap;
    }
    OptionPopup.-open { display: block; }
    """

    class Chosen(Message):
        """An option was clicked; it is the highlighted one."""

    highlighted: reactive[int | None] = reactive(None)

    def __init__(self) -> None:
        super().__init__()
        self._options: tuple[Option, ...] = ()
        self._notice = ""
        self._top = 0

    @property
    def is_open(self) -> bool:
        """Whether anything can be chosen."""
        return bool(self._options)

    @property
    def option(self) -> Option | None:
        """The highlighted option."""
        return None if self.highlighted is None else self._options[self.highlighted]

    def show(self, options: Sequence[Option], *, highlighted: int | None = 0, notice: str = "") -> None:
        """Replace what is listed."""
        self.highlighted = None
        self._options = tuple(options)
        self._notice = notice
        self._top = 0
        self.highlighted = highlighted if self._options else None
        self.set_class(bool(self._options or notice), "-open")
        self.refresh(layout=True)

    def close(self) -> None:
        """List nothing."""
        if self._options or self._notice:
            self.show(())

    def move(self, step: int) -> None:
        """Highlight the next option in that direction, going round at the ends."""
        if not self._options:
            return
        if self.highlighted is None:
            self.highlighted = 0 if step > 0 else len(self._options) - 1
        else:
            self.highlighted = (self.highlighted + step) % len(self._options)

    def watch_highlighted(self, highlighted: int | None) -> None:
        if highlighted is None:
            return
        self._top = min(max(self._top, highlighted - ROWS + 1), highlighted)

    def on_click(self, event: events.Click) -> None:
        event.stop()
        row = self._top + event.y
        if event.y < ROWS and row < len(self._options):
            self.highlighted = row
            self.post_message(self.Chosen())

    def render(self) -> Content:
        width = max(8, self.content_size.width)
        rows = [
            self._row(index, option, width)
            for index, option in enumerate(self._options[self._top : self._top + ROWS], self._top)
        ]
        footer = self._footer()
        if footer:
            rows.append(Content.styled(f"  {footer}", "dim").truncate(width, ellipsis=True))
        return Content("\n").join(rows)

    def _footer(self) -> str:
        parts: list[str] = []
        if len(self._options) > ROWS:
            at = 0 if self.highlighted is None else self.highlighted + 1
            parts.append(f"{at}/{len(self._options)}")
        if self._notice:
            parts.append(self._notice)
        return "  ".join(parts)

    def _row(self, index: int, option: Option, width: int) -> Content:
        chosen = index == self.highlighted
        label = _label(option, width - 2)
        if option.detail:
            padding = " " * max(2, _DETAIL_COLUMN - label.cell_length)
            label = label + Content.styled(padding + plain_line(option.detail), "dim")
        row = (Content("> " if chosen else "  ") + label).truncate(width, ellipsis=True, pad=True)
        return row.stylize("reverse") if chosen else row


def _label(option: Option, width: int) -> Content:
    """The label with its matched characters marked; cut in front, as its end tells paths apart."""
    matched = frozenset(option.positions)
    pieces = [
        Content.styled(plain_line(character), "bold underline")
        if place in matched
        else Content(plain_line(character))
        for place, character in enumerate(option.label)
    ]
    label = Content("").join(pieces)
    if label.cell_length <= width or option.detail:
        return label
    used, start = 1, len(pieces)
    while start and used + pieces[start - 1].cell_length <= width:
        start -= 1
        used += pieces[start].cell_length
    return Content("…").append(Content("").join(pieces[start:]))
