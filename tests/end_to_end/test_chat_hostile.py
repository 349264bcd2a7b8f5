"""`dsv4 chat` on a terminal: what a model or a command says can't steer it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.end_to_end.pty_screen import open_chat

HOSTILE = "\x1b]52;c;aGVsbG8=\x07 \x1b[2J \u202e [/foo] [@click=app.quit]here[/]"
SEQUENCES = (b"\x1b]52", b"\x1b[2J", "\u202e".encode(), b"\x9b", b"\x1bP")


@pytest.mark.parametrize("step", ["text", "think"])
def test_what_the_model_says_is_shown_escaped(dsv4: Any, step: str) -> None:
    with open_chat(dsv4, f"{step}: Look: {HOSTILE}\ntext: The end.\n") as chat:
        chat.wait_for("ready ·")
        chat.send("go\r")
        chat.wait_for("The end.")
        if step == "think":
            chat.send("\x12")
        chat.wait_for("[@click=app.quit]here")
        for shown in ("\\x1b]52;c;aGVsbG8=", "\\x1b[2J", "\\u202e", "[/foo]"):
            assert shown in chat.shown
        assert not [sequence for sequence in SEQUENCES if sequence in chat.output]
        chat.send("next")
        chat.wait_for("│ next")


def test_what_a_command_prints_is_shown_escaped(dsv4: Any) -> None:
    (dsv4.repository / "hostile.txt").write_text(f"{HOSTILE}\n")
    script = "call: shell\n  command: cat hostile.txt\n---\ntext: The end.\n"
    with open_chat(dsv4, script, "--permission-mode", "auto") as chat:
        chat.wait_for("ready ·")
        chat.send("go\r")
        chat.wait_for("The end.")
        # The shell tool takes terminal sequences out for the model as well.
        for shown in ("\\u202e", "[/foo]", "[@click=app.quit]here"):
            chat.wait_for(shown)
        assert not [sequence for sequence in SEQUENCES if sequence in chat.output]
        chat.send("next")
        chat.wait_for("│ next")


def test_names_and_commands_in_a_question_are_shown_escaped(dsv4: Any) -> None:
    script = f"call: shell\n  command: echo '{HOSTILE}'\n---\ntext: The end.\n"
    with open_chat(dsv4, script) as chat:
        chat.wait_for("ready ·")
        chat.send("go\r")
        chat.wait_for("Run this command?")
        for shown in ("\\x1b]52;c;aGVsbG8=", "\\x1b[2J", "\\u202e", "[/foo]", "[@click=app.quit]here"):
            chat.wait_for(shown)
        assert not [sequence for sequence in SEQUENCES if sequence in chat.output]
