"""The keys of a prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.completion import CompleteEvent, get_common_complete_suffix
from prompt_toolkit.filters import is_searching
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.key_binding.key_processor import KeyPressEvent
from prompt_toolkit.keys import Keys

from dsv4_agent.chat.editor import edit_text
from dsv4_agent.chat.pasted import clean
from dsv4_agent.plain.labels import Label
from dsv4_agent.plain.pasting import Pastes
from dsv4_agent.plain.printer import folded
from dsv4_agent.plain.steady import SteadyOutput
from dsv4_agent.plain.terminal import Broken, Ended, Typed

_LISTED = 30


@dataclass(frozen=True, slots=True)
class Actions:
    """What keys do beside editing."""

    pastes: Pastes
    cycle_mode: Callable[[], None]
    tell: Callable[[Label, list[str]], None]


def make_bindings(actions: Actions) -> KeyBindings:
    """All keys that differ from prompt-toolkit's own."""
    bindings = KeyBindings()
    editing = ~is_searching

    @bindings.add("enter", filter=editing)
    def _send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.char_before_cursor == "\\" and buffer.document.is_cursor_at_the_end:
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
            return
        text = buffer.text
        pastes = actions.pastes
        buffer.append_to_history()
        event.app.exit(result=Typed(text, pastes.own(text), pastes.begins(text)))

    @bindings.add("c-j", filter=editing)
    @bindings.add("escape", "enter", filter=editing)
    def _break(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @bindings.add(Keys.BracketedPaste)
    def _paste(event: KeyPressEvent) -> None:
        text = clean(event.data).text
        actions.pastes.add(text, at_start=event.current_buffer.cursor_position == 0)
        event.current_buffer.insert_text(text)

    @bindings.add("c-c", filter=editing)
    @bindings.add("<sigint>", filter=editing)
    def _stop(event: KeyPressEvent) -> None:
        event.app.exit(result=Broken(bool(event.current_buffer.text)))

    @bindings.add("c-d", filter=editing)
    def _leave(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.delete()
        else:
            event.app.exit(result=Ended())

    @bindings.add("s-tab")
    def _mode(event: KeyPressEvent) -> None:
        actions.cycle_mode()

    @bindings.add("tab", filter=editing)
    def _complete(event: KeyPressEvent) -> None:
        complete(event, actions.tell)

    @bindings.add("c-g", filter=editing)
    def _edit(event: KeyPressEvent) -> None:
        buffer = event.current_buffer

        def edit() -> None:
            if isinstance(event.app.output, SteadyOutput):
                event.app.output.release()
            # In this thread: nothing may be printed while the editor has the terminal.
            edited = edit_text(buffer.text)
            if edited.text is not None:
                buffer.text = edited.text
                buffer.cursor_position = len(edited.text)
            elif edited.error is not None:
                actions.tell(Label.WARNING, [edited.error])

        run_in_terminal(edit)

    return bindings


def complete(event: KeyPressEvent, tell: Callable[[Label, list[str]], None]) -> None:
    """Insert what is certain; else print what there is, one to a line. No menu that draws itself anew."""
    buffer = event.current_buffer
    found = list(buffer.completer.get_completions(buffer.document, CompleteEvent(completion_requested=True)))
    match found:
        case []:
            return
        case [only]:
            buffer.delete_before_cursor(-only.start_position)
            buffer.insert_text(only.text)
            return
    if common := get_common_complete_suffix(buffer.document, found):
        buffer.insert_text(common)
        return
    tell(Label.COMPLETIONS, folded([completion.display_text for completion in found], _LISTED))
