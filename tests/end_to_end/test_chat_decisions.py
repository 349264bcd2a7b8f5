"""`dsv4 chat` on a terminal: what a person allows, refuses and stops."""

from __future__ import annotations

from typing import Any

from dsv4_agent.session.session import replay
from tests.end_to_end.pty_screen import Terminal, open_chat

EDIT = "call: edit\n  path: a.py\n  old_string: old\n  new_string: new\n"
OLD, NEW = "def old():\n    return 1\n", "def new():\n    return 1\n"
ARMED = 0.8
"""Seconds without a key after which the panel hears; the product's own figure is half of that."""


def ask(chat: Terminal, question: str) -> None:
    chat.wait_for("ready ·")
    chat.send("go\r")
    chat.wait_for(question)


def told(dsv4: Any) -> str:
    """Everything that the model was told in the only session."""
    (journal,) = dsv4.journals()
    return "".join(entry.text for entry in replay(journal).transcript.entries)


def test_an_edit_is_shown_then_done_with_y(dsv4: Any) -> None:
    with open_chat(dsv4, f"{EDIT}---\ntext: Done.\n") as chat:
        ask(chat, "Change a.py?")
        chat.wait_for("+ def new():")
        assert (dsv4.repository / "a.py").read_text() == OLD
        chat.wait_until_quiet(ARMED)
        chat.send("y")
        chat.wait_for("Done.")
        chat.wait_until_gone("Change a.py?")
        chat.send("next")
        chat.wait_for("│ next")
    assert (dsv4.repository / "a.py").read_text() == NEW


def test_keys_typed_ahead_approve_nothing(dsv4: Any) -> None:
    with open_chat(dsv4, f"text: Thinking.\ndelay: 1\n{EDIT}---\ntext: I see.\n") as chat:
        ask(chat, "Thinking.")
        while "Change a.py?" not in chat.shown:
            assert "I see." not in chat.shown, "a key of those typed ahead has approved"
            chat.send("y")
            chat.read(0.03)
        chat.send("yyyy")
        chat.wait_until_quiet(ARMED)
        chat.send("n")
        chat.wait_for("Why not?")
        chat.send("\r")
        chat.wait_for("I see.")
    assert (dsv4.repository / "a.py").read_text() == OLD


def test_a_command_is_refused_and_the_model_gets_the_reason(dsv4: Any) -> None:
    with open_chat(dsv4, "call: shell\n  command: touch made\n---\ntext: I see.\n") as chat:
        ask(chat, "Run this command?")
        assert "touch made" in chat.shown
        chat.wait_until_quiet(ARMED)
        chat.send("n")
        chat.wait_for("Why not?")
        chat.send("ask the owner first\r")
        chat.wait_for("I see.")
        chat.wait_for("ready ·")
    assert not (dsv4.repository / "made").exists()
    assert "ask the owner first" in told(dsv4)


def test_escape_keeps_what_was_done_and_the_chat_goes_on(dsv4: Any, helpers: Any) -> None:
    script = f"{EDIT}---\ncall: shell\n  command: sleep 98531\n---\ntext: Going on.\n"
    with open_chat(dsv4, script, "--permission-mode", "auto") as chat:
        chat.wait_for("ready ·")
        chat.send("go\r")
        chat.until(lambda: helpers.running("sleep\x0098531"), "the command")
        chat.send("\x1b")
        chat.wait_for("interrupted")
        chat.wait_for("ready ·")
        chat.until(lambda: not helpers.running("sleep\x0098531"), "the end of the command")
        assert (dsv4.repository / "a.py").read_text() == NEW
        chat.send("and now?\r")
        chat.wait_for("Going on.")
