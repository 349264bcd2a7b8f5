"""The text area of the input box: shell-like editing keys, safe pastes, chips that move and go as one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual import events
from textual.actions import SkipAction
from textual.binding import BindingType
from textual.geometry import Offset
from textual.message import Message
from textual.widgets import TextArea
from textual.widgets.text_area import EditResult, Location, Selection

from dsv4_agent.chat.pasted import clean
from dsv4_agent.tui.composer.keys import EDITING
from dsv4_agent.tui.composer.pastes import Pastes

_WORD_BEFORE = re.compile(r"\S*\s*$")
_SPECIAL = ("/", "!")  # first characters with a meaning


class DraftArea(TextArea, inherit_bindings=False):
    """Edits the draft. What keys mean for the conversation is bound in the composer around it.

    `typed` says whether the last edit came from the keyboard; `pasted_start` whether the text begins with a
    sign that has a meaning but was not typed. While `diverted` is set, letters go there, not into the text.
    """

    BINDINGS: ClassVar[list[BindingType]] = EDITING

    class ControlsRemoved(Message):
        """A paste held characters that were left out."""

        def __init__(self, count: int) -> None:
            super().__init__()
            self.count = count

    def __init__(self, pastes: Pastes) -> None:
        self._pastes = pastes
        super().__init__(highlight_cursor_line=False, tab_behavior="focus")
        self.typed = False
        self.pasted_start = False
        self.diverted: Callable[[str], None] | None = None
        self._pasted_special = False

    def put(self, text: str, *, cursor: Location | None = None) -> None:
        """Replace everything by `text` as if nobody had typed it; the cursor goes to its end."""
        self.typed = False
        self.pasted_start = self._pasted_special = False
        self.replace(text, (0, 0), self.document.end, maintain_selection_offset=False)
        self.move_cursor(self.document.end if cursor is None else cursor)

    def reset(self) -> None:
        """Begin a new draft, without a way back to the old one."""
        self.typed = False
        self.pasted_start = self._pasted_special = False
        self.load_text("")

    def insert_typed(self, text: str) -> None:
        """Replace the selection as the keyboard would."""
        self.replace(text, *self.selection, maintain_selection_offset=False)

    def mark_pasted_start(self) -> None:
        """The first character was pasted: it must not count as the start of a command."""
        self.pasted_start = self._pasted_special = True

    def check_start(self) -> None:
        """Forget that the start was pasted once it is something else."""
        if not self._is_special():
            self.pasted_start = False

    def _is_special(self) -> bool:
        return self.text.lstrip().startswith(_SPECIAL)

    async def _on_key(self, event: events.Key) -> None:
        if not event.is_printable or event.character is None:
            # Bindings are looked at when a key has bubbled up to the app, and by then the letters that were
            # typed after it are in the text: a key of a batch must act before the next one is read.
            if await self.app._check_bindings(event.key):
                event.stop()
                event.prevent_default()
            elif event.key == "enter":  # the base class would insert a line break
                event.prevent_default()
            return
        if self.diverted is not None:
            event.stop()
            event.prevent_default()
            self.diverted(event.character)
            return
        self.typed = True
        self.check_start()
        if not self.selection.is_empty and min(self.selection) == (0, 0):
            self.pasted_start = False

    async def _on_paste(self, event: events.Paste) -> None:
        event.stop()
        event.prevent_default()
        self.insert_pasted(event.text)

    def action_paste(self) -> None:
        """Paste what was copied or cut in this program."""
        self.insert_pasted(self.app.clipboard)

    def insert_pasted(self, text: str) -> None:
        """Insert foreign text: cleaned, as a chip if it is long, never completed, never a command."""
        cleaned = clean(text)
        if self.diverted is not None:
            self.diverted(cleaned.text.partition("\n")[0])
            return
        if cleaned.text:
            self._insert_cleaned(cleaned.text)
        if cleaned.removed:  # after the edit, so that this is what the user hears last
            self.post_message(self.ControlsRemoved(cleaned.removed))

    def _insert_cleaned(self, text: str) -> None:
        self.typed = False
        self.check_start()
        at_start = min(self.selection) == (0, 0)
        self.replace(self._pastes.fold(text), *self.selection, maintain_selection_offset=False)
        if at_start and self._is_special():
            self.mark_pasted_start()

    def validate_selection(self, selection: Selection) -> Selection:
        """Keep the cursor out of the inside of a chip: it goes on to the edge it was moving towards."""
        old = self.selection.end
        return Selection(self._outside(selection.start, old), self._outside(selection.end, old))

    def _outside(self, location: Location, old: Location) -> Location:
        return self._edge(location, forward=location > old)

    def _edge(self, location: Location, *, forward: bool) -> Location:
        row, column = location
        if not 0 <= row < self.document.line_count:
            return location
        for start, end in self._pastes.spans(self.document.get_line(row)):
            if start < column < end:
                return row, end if forward else start
        return location

    def delete(self, start: Location, end: Location, *, maintain_selection_offset: bool = True) -> EditResult:
        """Delete a range, and the whole of a chip that is in it in part."""
        first, last = sorted((start, end))
        return super().delete(
            self._edge(first, forward=False),
            self._edge(last, forward=True),
            maintain_selection_offset=maintain_selection_offset,
        )

    def scroll_cursor_visible(self, center: bool = False, animate: bool = False) -> Offset:
        # Textual calls this in the middle of an undo, when the cursor may still be in a line that is gone.
        if self.selection.end[0] >= self.document.line_count:
            return Offset(0, 0)
        return super().scroll_cursor_visible(center, animate)

    def get_line(self, line_index: int) -> Text:
        line = super().get_line(line_index)
        for start, end in self._pastes.spans(line.plain):
            line.stylize(Style(bold=True, italic=True), start, end)
        return line

    def action_delete_left(self) -> None:
        if self.diverted is not None:
            self.diverted("\b")
            return
        self.typed = True
        super().action_delete_left()
        self.check_start()

    def action_delete_right_or_skip(self) -> None:
        """Delete to the right; in an empty draft the key is the application's."""
        if not self.text:
            raise SkipAction
        self.action_delete_right()

    def action_delete_space_word(self) -> None:
        """Delete back to the last white space, as Ctrl+W does in a shell."""
        row, column = self.cursor_location
        found = _WORD_BEFORE.search(self.document.get_line(row)[:column])
        if not self.selection.is_empty or column == 0 or found is None:
            self.action_delete_left()
            return
        self._cut((row, found.start()), (row, column))

    def action_delete_to_paragraph_start(self) -> None:
        """Delete the line left of the cursor, or the line break before it."""
        if self.diverted is not None:
            self.diverted("")
            return
        row, column = self.cursor_location
        if not self.selection.is_empty or column == 0:
            self.action_delete_left()
            return
        self._cut((row, 0), (row, column))

    def action_delete_to_paragraph_end(self) -> None:
        """Delete the line right of the cursor, or the line break after it."""
        row, column = self.cursor_location
        end = len(self.document.get_line(row))
        if not self.selection.is_empty or column == end:
            self.action_delete_right()
            return
        self._cut((row, column), (row, end))

    def _cut(self, start: Location, end: Location) -> None:
        self.typed = False
        self.delete(start, end, maintain_selection_offset=False)
        self.check_start()

    def action_paragraph_start(self) -> None:
        self.move_cursor((self.cursor_location[0], 0))

    def action_paragraph_end(self) -> None:
        row = self.cursor_location[0]
        self.move_cursor((row, len(self.document.get_line(row))))

    def action_text_start(self) -> None:
        self.move_cursor((0, 0))

    def action_text_end(self) -> None:
        self.move_cursor(self.document.end)

    def action_undo(self) -> None:
        self._time_travel(self.undo)

    def action_redo(self) -> None:
        self._time_travel(self.redo)

    def _time_travel(self, step: Callable[[], None]) -> None:
        """What comes back may be a pasted start; when in doubt, it is taken for one."""
        before = self.text[:1]
        self.typed = False
        step()
        self.check_start()
        if self._pasted_special and self.text[:1] != before and self._is_special():
            self.pasted_start = True
