"""The keys of the input box. Every binding has an id, so that `App.set_keymap` can give it other keys."""

from __future__ import annotations

from typing import Final

from textual.binding import Binding, BindingType


def _hidden(keys: str, action: str, name: str, description: str) -> Binding:
    return Binding(keys, action, description, show=False, id=f"composer.{name}")


CONVERSATION: Final[list[BindingType]] = [
    Binding("enter", "submit", "Send", id="composer.submit"),
    _hidden("shift+enter,alt+enter,ctrl+j", "newline", "newline", "New line"),
    _hidden("up", "previous", "previous", "Up, older prompt"),
    _hidden("down", "next", "next", "Down, newer prompt"),
    _hidden("pageup", "page(-1)", "page_up", "Page up"),
    _hidden("pagedown", "page(1)", "page_down", "Page down"),
    _hidden("tab", "complete", "complete", "Complete"),
    _hidden("escape", "close", "close", "Close the list"),
    _hidden("ctrl+r", "history_search", "history_search", "Search the history"),
    _hidden("ctrl+g", "external_editor", "external_editor", "Write in your editor"),
    _hidden("ctrl+c", "copy_or_clear", "copy_or_clear", "Copy, or clear the draft"),
]
"""What acts on the conversation, or on what is open above the text."""

EDITING: Final[list[BindingType]] = [
    _hidden("left", "cursor_left", "left", "Left"),
    _hidden("right", "cursor_right", "right", "Right"),
    _hidden("ctrl+left,alt+b,alt+left", "cursor_word_left", "word_left", "Word left"),
    _hidden("ctrl+right,alt+f,alt+right", "cursor_word_right", "word_right", "Word right"),
    _hidden("home", "cursor_line_start", "home", "Start of the row"),
    _hidden("end", "cursor_line_end", "end", "End of the row"),
    _hidden("ctrl+a", "paragraph_start", "line_start", "Start of the line"),
    _hidden("ctrl+e", "paragraph_end", "line_end", "End of the line"),
    _hidden("ctrl+home", "text_start", "text_start", "Start of the text"),
    _hidden("ctrl+end", "text_end", "text_end", "End of the text"),
    _hidden("shift+left", "cursor_left(True)", "select_left", "Select left"),
    _hidden("shift+right", "cursor_right(True)", "select_right", "Select right"),
    _hidden("shift+up", "cursor_up(True)", "select_up", "Select up"),
    _hidden("shift+down", "cursor_down(True)", "select_down", "Select down"),
    _hidden("ctrl+shift+left", "cursor_word_left(True)", "select_word_left", "Select a word"),
    _hidden("ctrl+shift+right", "cursor_word_right(True)", "select_word_right", "Select a word"),
    _hidden("shift+home", "cursor_line_start(True)", "select_home", "Select to the start"),
    _hidden("shift+end", "cursor_line_end(True)", "select_end", "Select to the end"),
    _hidden("backspace", "delete_left", "delete_left", "Delete left"),
    _hidden("delete", "delete_right", "delete_right", "Delete right"),
    _hidden("ctrl+d", "delete_right_or_skip", "delete_or_skip", "Delete right"),
    _hidden("ctrl+w", "delete_space_word", "delete_word", "Delete the word"),
    _hidden("alt+backspace,ctrl+backspace", "delete_word_left", "delete_word_left", "Delete a word left"),
    _hidden("alt+d,alt+delete", "delete_word_right", "delete_word_right", "Delete a word right"),
    _hidden("ctrl+u", "delete_to_paragraph_start", "delete_to_start", "Delete to the start"),
    _hidden("ctrl+k", "delete_to_paragraph_end", "delete_to_end", "Delete to the end"),
    _hidden("ctrl+x,super+x", "cut", "cut", "Cut"),
    _hidden("super+c", "copy", "copy", "Copy"),
    _hidden("ctrl+v,super+v", "paste", "paste", "Paste"),
    _hidden("ctrl+z,super+z", "undo", "undo", "Undo"),
    _hidden("ctrl+y,super+y", "redo", "redo", "Redo"),
]
"""What edits the text, as in a shell where a shell has such a key."""
