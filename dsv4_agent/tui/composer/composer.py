"""The input box of the conversation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final, Self

from textual import events, on
from textual.actions import SkipAction
from textual.app import ComposeResult, SuspendNotSupported
from textual.binding import BindingType
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Static, TextArea

from dsv4_agent.chat.drafts import Draft, DraftStore
from dsv4_agent.chat.editor import edit_text
from dsv4_agent.chat.history import History
from dsv4_agent.chat.mentions import MentionIndex
from dsv4_agent.chat.pasted import clean
from dsv4_agent.chat.submission import CommandLine, Prompt, ShellLine, judge
from dsv4_agent.tui.composer import messages
from dsv4_agent.tui.composer.area import DraftArea
from dsv4_agent.tui.composer.assist import Assist
from dsv4_agent.tui.composer.completion import ArgumentCompleter, Completer
from dsv4_agent.tui.composer.keeper import DraftKeeper
from dsv4_agent.tui.composer.keys import CONVERSATION
from dsv4_agent.tui.composer.pastes import Pastes
from dsv4_agent.tui.composer.popup import OptionPopup
from dsv4_agent.tui.composer.terminal_input import mend_terminal_input
from dsv4_agent.tui.composer.walk import HistoryWalk
from dsv4_agent.workbench.plain_text import plain_line

IDLE: Final = "Ask for something - @ names a file, / lists commands, ! runs a shell command"
BUSY: Final = "Enter queues, Esc interrupts"
_INLINE_LIMIT: Final = 20_000  # a longer text that is put into the box becomes a chip: wrapping it is slow

mend_terminal_input()  # here and not on mount: the driver makes its parser before anything is mounted


class Composer(Widget):
    """Where the user writes: one to ten lines, with completion above and a hint below when there is one.

    Only its messages leave it; it runs nothing. The history and the draft are kept here. Texts from outside
    are cleaned of control characters and never read as markup.
    """

    DEFAULT_CSS = """
    Composer {
        height: auto;
        & > DraftArea {
            height: auto;
            min-height: 1;
            max-height: 12;
            border: round $primary 60%;
            padding: 0 1;
            background: transparent;
            &:focus { border: round $primary; }
        }
        &.-shell > DraftArea { border: round $warning; }
        & > #hint { height: auto; padding: 0 1; display: none; color: $text-muted; }
        &.-hint > #hint { display: block; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = CONVERSATION

    Submitted = messages.Submitted
    ShellSubmitted = messages.ShellSubmitted
    CommandSubmitted = messages.CommandSubmitted
    Edited = messages.Edited

    class _FilesListed(Message):
        """The index of files is new."""

    def __init__(
        self,
        workspace: Path,
        *,
        history: History | None = None,
        drafts: DraftStore | None = None,
        index: MentionIndex | None = None,
        complete_argument: ArgumentCompleter | None = None,
        id: str | None = None,
    ) -> None:
        """What is not given is made for `workspace`; `complete_argument` gets a command and its tail."""
        super().__init__(id=id)
        self._history = History(workspace) if history is None else history
        if index is None:
            index = MentionIndex(workspace, on_ready=self._announce_files)
        self._index = index
        self._completer = Completer(index, complete_argument)
        self._pastes = Pastes()
        self._area = DraftArea(self._pastes)
        self._area.placeholder = IDLE
        self._popup = OptionPopup()
        self._hint = Static(id="hint", markup=False)
        store = DraftStore(workspace) if drafts is None else drafts
        self._keeper = DraftKeeper(self, store, self._draft)
        self._assist = Assist(self._area, self._popup, self._completer, self._history, self._show_hint)
        self._walk = HistoryWalk(self._history, self._area, self._put)
        self._notice = ""

    def compose(self) -> ComposeResult:
        yield self._popup
        yield self._area
        yield self._hint

    def on_mount(self) -> None:
        self._index.refresh()
        draft = self._keeper.load()
        if draft is None or self._area.text:
            return
        self._pastes.restore(draft.pastes)
        self._put(draft.text)
        if draft.pasted_start:
            self._area.mark_pasted_start()

    def _announce_files(self) -> None:
        self.post_message(self._FilesListed())  # called in the thread of the index

    def on_unmount(self) -> None:
        self._keeper.flush()

    # What the application uses

    @property
    def text(self) -> str:
        """The draft with pasted texts in full."""
        return self._pastes.expand(self._area.text)

    @property
    def in_history(self) -> bool:
        """Whether the history is walked through or searched."""
        return self._walk.begun or self._assist.is_searching

    def replace_text(self, text: str) -> None:
        """Put `text` into the box as the new draft; undo brings the old one back."""
        self._walk.end()
        self._put(text)

    def insert_text(self, text: str) -> None:
        """Insert foreign text at the cursor, as a paste would."""
        self._area.insert_pasted(text)

    def set_commands(self, commands: Sequence[tuple[str, str]]) -> None:
        """The commands to complete after a `/`: names, and what they do."""
        self._completer.set_commands(commands)

    def set_busy(self, busy: bool) -> None:
        """Say in the empty box what Enter and Esc do now."""
        self._area.placeholder = BUSY if busy else IDLE

    def focus(self, scroll_visible: bool = True) -> Self:
        """Give the keyboard to the text area."""
        self._area.focus(scroll_visible)
        return self

    # Submitting

    def action_submit(self) -> None:
        """Take what is highlighted, break the line after a backslash, or send the draft."""
        if self._assist.wants_enter:
            self._take()
        elif self._ends_with_backslash():
            self._area.action_delete_left()
            self.action_newline()
        elif self._area.text.strip():
            self._submit()

    def _submit(self) -> None:
        self._area.check_start()
        pasted = self._area.pasted_start
        shown, text = self._area.text.strip("\n").rstrip(), self.text.strip("\n").rstrip()
        match Prompt(shown) if pasted else judge(shown, self._completer.commands):
            case Prompt(text=kept):
                skipped = len(shown) - len(kept)
                message: Message = self.Submitted(text[skipped:], kept)
            case ShellLine():
                message = self.ShellSubmitted(text[1:].strip())
            case CommandLine():
                message = self.CommandSubmitted(text)
        # With a space before it, a pasted `!` or `/` is still no command when it comes back.
        self._history.add(f" {text}" if pasted else text)
        self._reset()
        self._report(self._history.warning)
        self.post_message(message)

    def _reset(self) -> None:
        self._walk.end()
        self._assist.close()
        self._pastes.forget()
        self._area.reset()
        self._keeper.clear()

    def _ends_with_backslash(self) -> bool:
        row, column = self._area.cursor_location
        line = self._area.document.get_line(row)
        before = line[:column]
        return column == len(line) and (len(before) - len(before.rstrip("\\"))) % 2 == 1

    def action_newline(self) -> None:
        """Break the line."""
        if self._assist.is_searching:
            return
        self._assist.close()
        self._area.typed = False
        self._area.insert_typed("\n")

    # What is open above the text

    def action_complete(self) -> None:
        """Take the highlighted option, or the first."""
        if not self._popup.is_open:
            raise SkipAction
        self._take()

    def action_close(self) -> None:
        """Close what is open here; otherwise the key is the application's."""
        if not self._assist.is_open:
            raise SkipAction
        self._assist.close()

    def action_history_search(self) -> None:
        """Search the history as letters are typed; again: go on to an older prompt."""
        self._assist.search()

    def _take(self) -> None:
        prompt = self._assist.take()
        if prompt is not None:
            self.replace_text(prompt)

    @on(OptionPopup.Chosen)
    def _option_clicked(self, event: OptionPopup.Chosen) -> None:
        event.stop()
        self._take()
        self.focus()

    @on(_FilesListed)
    def _files_listed(self, event: _FilesListed) -> None:
        event.stop()
        self._assist.files_listed()

    @on(TextArea.SelectionChanged)
    def _cursor_moved(self, event: TextArea.SelectionChanged) -> None:
        event.stop()
        self._assist.cursor_moved()

    @on(TextArea.Changed)
    def _text_changed(self, event: TextArea.Changed) -> None:
        event.stop()
        if self._area.text:
            self._notice = ""
        if self._area.typed:
            self._assist.complete()
        else:
            self._assist.close()
        self.set_class(self._area.text.startswith("!") and not self._area.pasted_start, "-shell")
        self._show_hint()
        self._keeper.changed()
        self.post_message(self.Edited())

    # History

    def action_previous(self) -> None:
        """Up: in the list, in the text, then in the history."""
        if self._popup.is_open:
            self._popup.move(-1)
        elif self._area.navigator.is_first_wrapped_line(self._area.cursor_location):
            self._walk.older()
        else:
            self._area.action_cursor_up()

    def action_next(self) -> None:
        """Down: in the list, in the text, then back towards the draft."""
        if self._popup.is_open:
            self._popup.move(1)
        elif self._area.navigator.is_last_wrapped_line(self._area.cursor_location):
            self._walk.newer()
        else:
            self._area.action_cursor_down()

    def action_page(self, direction: int) -> None:
        """A page in the text, if it has more than one; otherwise the key is the application's."""
        if self._area.virtual_size.height <= self._area.size.height:
            raise SkipAction
        if direction < 0:
            self._area.action_cursor_page_up()
        else:
            self._area.action_cursor_page_down()

    # Small things

    def action_external_editor(self) -> None:
        """Write on in $VISUAL or $EDITOR; the screen is the editor's until it ends."""
        self._assist.close()
        try:
            with self.app.suspend():
                edited = edit_text(self.text)
        except SuspendNotSupported:
            self._report("The editor can't be opened from this terminal.")
            return
        if edited.text is None:
            self._report(edited.error)
            return
        self.replace_text(edited.text)

    def action_copy_or_clear(self) -> None:
        """Copy the selection, or move the draft to the history; otherwise the key is the application's."""
        if self._assist.is_searching:
            self._assist.close()
        elif self._area.selected_text:
            self.app.copy_to_clipboard(self._area.selected_text)
        elif self._area.text:
            self._history.add(f" {self.text}" if self._area.pasted_start else self.text)
            self._reset()
        else:
            raise SkipAction

    @on(DraftArea.ControlsRemoved)
    def _controls_removed(self, event: DraftArea.ControlsRemoved) -> None:
        event.stop()
        count = event.count
        self._report(f"{count:,} control character{'s' * (count != 1)} in the paste left out")

    def on_descendant_blur(self, event: events.DescendantBlur) -> None:
        self._keeper.flush()

    def _put(self, text: str, at_top: bool = False) -> None:
        """Show `text`, its chips as they are; a text too long to wrap becomes a chip."""
        cleaned = clean(text).text
        if len(cleaned) > _INLINE_LIMIT:
            cleaned = self._pastes.chip(cleaned)
        first = cleaned.partition("\n")[0]
        self._area.put(cleaned, cursor=(0, len(first)) if at_top else None)

    def _draft(self) -> Draft:
        text = self._area.text
        return Draft(text, self._pastes.used(text), self._area.pasted_start)

    def _report(self, line: str | None) -> None:
        if line:
            self._notice = plain_line(line, 300)
            self._show_hint()

    def _show_hint(self) -> None:
        hint = self._hint_text()
        self._hint.update(hint)
        self.set_class(bool(hint), "-hint")

    def _hint_text(self) -> str:
        if self._assist.hint:
            return self._assist.hint
        if self._notice:
            return self._notice
        if self._area.pasted_start:
            return (
                f"pasted: goes to the model as it is; type the {self._area.text[:1]} yourself for a command"
            )
        if self._area.text.startswith("!"):
            return "runs in your shell, not by the model"
        return (self._area.text and self._keeper.warning) or ""
