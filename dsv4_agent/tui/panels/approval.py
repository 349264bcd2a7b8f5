"""The question about a call: the whole of it, why it is asked, and the four answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, Static

from dsv4_agent.chat.dialogue import Choice
from dsv4_agent.loop.events import ApprovalRequested
from dsv4_agent.tui.panels.arming import Arming
from dsv4_agent.tui.panels.fitted import Fitted
from dsv4_agent.tui.panels.reading import Reading
from dsv4_agent.tui.theme import Palette, palette_for
from dsv4_agent.tui.transcript.diff import diff_rows
from dsv4_agent.tui.transcript.lines import text_rows
from dsv4_agent.tui.transcript.rows import Row
from dsv4_agent.workbench.plain_text import plain, plain_line

_LEAST_READ = 4
"""Rows of what is asked about that must be in view before the answers may be whole sentences."""
_NARROW = 40
"""Columns below which the answers are only their keys."""
_WORDS = {Choice.ONCE: "once", Choice.SESSION: "session", Choice.ALWAYS: "always", Choice.NO: "no"}


class ApprovalPanel(Fitted, can_focus=True):
    """Holds the keyboard until it is answered. Posts `Decided` once.

    `remembers` says what "session" and "always" would allow; empty where no rule can say it, and then those
    answers are not offered. The answers are in view in any terminal: where they would leave no room for what
    is asked about, they are one line of words; the reason and what is remembered are then read with the rest.
    """

    DEFAULT_CSS = """
    ApprovalPanel {
        height: auto;
        border: round $warning;
        border-title-color: $warning;
        border-subtitle-color: $text-muted;
        padding: 0 1;
        & > #why { color: $text-muted; height: auto; }
        & > #choices { height: auto; margin-top: 1; }
        & > Input { display: none; border: none; height: 1; padding: 0; background: $surface; }
        &.-tight > #why { display: none; }
        &.-tight > #choices { margin-top: 0; }
        &.-refusing > Input { display: block; }
        &.-refusing > #choices { display: none; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "decide('once')", "Yes, once", id="approval.once"),
        Binding("s", "decide('session')", "Yes, in this session", id="approval.session"),
        Binding("a", "decide('always')", "Yes, always in this project", id="approval.always"),
        Binding("n", "refuse", "No, with a reason", id="approval.no"),
        Binding("up", "move(-1)", show=False),
        Binding("down", "move(1)", show=False),
        Binding("enter", "take", show=False),
        Binding("escape", "escape", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("shift+up", "scroll(-1)", show=False),
        Binding("shift+down", "scroll(1)", show=False),
    ]

    @dataclass
    class Decided(Message):
        """The answer to question `id`."""

        id: str
        choice: Choice
        reason: str = ""

    class Stopped(Message):
        """Escape: end the whole turn."""

    def __init__(
        self,
        question: ApprovalRequested,
        remembers: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._question = question
        self._remembers = remembers
        self._arming = Arming(clock)
        self._selected = 0
        self._tight = False
        self.border_title = Content(_title(question))

    def compose(self) -> ComposeResult:
        yield Static(Content(plain_line(_reason(self._question))), id="why")
        yield Reading(self._rows)
        yield Static(self._choices(), id="choices")
        yield Input(placeholder="Why not? The model is told. Enter sends, empty says just no.", compact=True)

    def on_mount(self) -> None:
        self.fit()
        self.call_after_refresh(self._seen)

    def on_resize(self) -> None:
        self.call_after_refresh(self._count_below)

    def fit(self) -> None:
        """Choose between whole sentences and single words, by the room in the terminal."""
        if not self.query(Reading):  # it is being taken away
            return
        size = self.app.size
        width = max(1, size.width - self.gutter.width)
        room = self.room(size.height)
        why, choices = self.query_one("#why", Static), self.query_one("#choices", Static)
        self._tight = False
        choices.update(self._choices())
        whole = choices.get_content_height(size, size, width) + why.get_content_height(size, size, width)
        self._tight = whole + 1 > room - min(_LEAST_READ, len(self._rows(width, self._palette)))
        self.set_class(self._tight, "-tight")
        choices.update(self._choices())
        self.query_one(Reading).remake()
        self.refresh(layout=True)

    def _seen(self) -> None:
        self._arming.begin()
        self._count_below()

    async def _on_key(self, event: events.Key) -> None:
        # Bindings are looked at after this, as the event bubbles: what was typed ahead is dropped here.
        self._arming.take(event, self.screen.active_bindings.get)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        lasting = action == "decide" and parameters in (("session",), ("always",))
        return not lasting or bool(self._remembers)

    def action_decide(self, choice: str) -> None:
        self.post_message(self.Decided(self._question.id, Choice(choice)))

    def action_refuse(self) -> None:
        self.add_class("-refusing")
        self.query_one(Input).focus()

    def action_take(self) -> None:
        choice = self._offered()[self._selected][0]
        if choice is Choice.NO:
            self.action_refuse()
        else:
            self.action_decide(choice.value)

    def action_escape(self) -> None:
        if self.has_class("-refusing"):
            self.remove_class("-refusing")
            self.focus()
        else:
            self.post_message(self.Stopped())

    def action_move(self, step: int) -> None:
        self._selected = (self._selected + step) % len(self._offered())
        self.query_one("#choices", Static).update(self._choices())

    def action_page(self, direction: int) -> None:
        reading = self.query_one(Reading)
        self._scroll(direction * max(1, reading.size.height - 1))

    def action_scroll(self, lines: int) -> None:
        self._scroll(lines)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.post_message(self.Decided(self._question.id, Choice.NO, event.value.strip()))

    def _scroll(self, lines: int) -> None:
        self.query_one(Reading).scroll_relative(y=lines, animate=False)
        self.call_after_refresh(self._count_below)

    def _count_below(self) -> None:
        for reading in self.query(Reading):  # none any more if it was answered meanwhile
            below = reading.hidden_below
            self.border_subtitle = Content(f"… {below} more rows (PageDown)" if below else "")

    @property
    def _palette(self) -> Palette:
        return palette_for(self.app.current_theme, no_color=self.app.no_color)

    def _rows(self, width: int, palette: Palette) -> list[Row]:
        rows = _rows(self._question, width, palette)
        if self._tight:
            rows += text_rows(plain_line(_reason(self._question)), palette.muted, width)
            if self._remembers:
                allowed = f"s (in this session) and a (always) would allow: {self._remembers}"
                rows += text_rows(plain_line(allowed), palette.muted, width)
        return rows

    def _offered(self) -> list[tuple[Choice, str, str]]:
        offered = [(Choice.ONCE, "y", "Yes, this once")]
        if self._remembers:
            offered.append((Choice.SESSION, "s", f"Yes, and not again in this session: {self._remembers}"))
            offered.append((Choice.ALWAYS, "a", f"Yes, and never again here: {self._remembers}"))
        offered.append((Choice.NO, "n", "No, and say why"))
        return offered

    def _choices(self) -> Content:
        if self._tight:
            return self._words()
        lines: list[Content] = []
        for number, (_, key, text) in enumerate(self._offered()):
            mark = "›" if number == self._selected else " "
            style = "bold" if number == self._selected else ""
            lines.append(Content.styled(plain_line(f"{mark} {key}  {text}"), style))
        return Content("\n").join(lines)

    def _words(self) -> Content:
        keys = self.app.size.width < _NARROW
        parts: list[Content] = []
        for number, (choice, key, _) in enumerate(self._offered()):
            chosen = number == self._selected
            text = f"{'›' if chosen else ''}{key}{'' if keys else ' ' + _WORDS[choice]}"
            parts.append(Content.styled(text, "bold" if chosen else ""))
        return Content("  ").join(parts)


def _title(question: ApprovalRequested) -> str:
    match question.tool:
        case "shell":
            return "Run this command?"
        case "edit" | "write":
            return f"Change {plain_line(str(question.input.get('path', '')), 60)}?"
        case tool:
            return f"Allow {plain_line(tool, 40)}?"


def _reason(question: ApprovalRequested) -> str:
    return f"{question.reason} (rule {question.rule})" if question.rule else question.reason


def _rows(question: ApprovalRequested, width: int, palette: Palette) -> list[Row]:
    if question.error is not None:
        return list(text_rows(plain(f"it will fail: {question.error}"), palette.warning, width))
    if question.changes:
        shown = [diff_rows(change.diff, change.path, width, palette) for change in question.changes]
        return [row for part in shown for row in part]
    if question.tool == "shell":
        return list(text_rows(plain(str(question.input.get("command", ""))), palette.strong, width))
    lines = "\n".join(f"{name}: {value}" for name, value in question.input.items())
    return list(text_rows(plain(lines), palette.text, width))
