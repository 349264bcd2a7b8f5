"""Whole sessions of a real process: on a dumb terminal, on pipes, on a terminal with keys."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EDIT = "call: edit\n  path: app.py\n  old_string: old\n  new_string: new\n"
SHELL = "call: shell\n  command: echo from-the-shell\n"
Unlabelled = Callable[[str], list[str]]


def test_a_session_on_a_dumb_terminal_is_labelled_lines_and_nothing_else(
    start, workspace: Path, unlabelled: Unlabelled
) -> None:
    script = f"think: I think.\ntext: First I look.\n{EDIT}---\n{SHELL}---\ntext: Done.\n---\ntext: Second."
    chat = start(script)
    chat.until("Loading the model.\n")
    chat.until("Ready. Model scripted:script.txt.\n")
    chat.until("> ")
    chat.send("rename it\n")
    chat.until("Thinking: I think.\n")
    chat.until("Answer: First I look.\n")
    chat.until("  Removed: old = 1\n  Added: new = 1\n")
    chat.until("Allow? [y]es once, [s]ession, [a]lways, [n]o: ")
    chat.send("perhaps\n")
    chat.until("Notice: that is no answer")
    chat.until("[n]o: ")
    chat.send("y\n")
    chat.until("Edit: app.py, 1 added, 1 removed\n")
    chat.until("  Command: echo from-the-shell\n")
    chat.until("[n]o: ")
    chat.send("n not with echo\n")
    chat.until("Denied: the user refused it: not with echo")
    chat.until("Answer: Done.\n")
    chat.until("Cache: ")
    chat.until("Ready.\n> ")
    chat.send("/help\n")
    chat.until("  /context: what fills the window")
    chat.until("> ")
    chat.send("/context\n")
    chat.until("Page: Context\n")
    chat.until("> ")
    chat.send("go on \\\nin a second line\n")
    chat.until("Answer: Second.\n")
    chat.until("Ready.\n> ")
    chat.send("/quit\n")
    assert chat.ended() == 0
    assert "Session: kept" in chat.text
    assert b"\x1b" not in chat.data
    assert b"\r" not in chat.data.replace(b"\r\n", b"")
    assert not set("─│█⠋·•") & set(chat.text)
    # Only the person's own second line stands there without a word of ours.
    assert unlabelled(chat.text) == ["in a second line"]
    for once in ("Thinking: I think.", "Answer: Done.", "  Added: new = 1", "You:"):
        assert chat.text.count(once) == (0 if once == "You:" else 1)
    assert (workspace / "app.py").read_text() == "new = 1\n"


def test_lines_typed_before_a_question_do_not_answer_it(start, workspace: Path) -> None:
    chat = start(f"{EDIT}---\ntext: Done.", "pipe")
    chat.send("rename it\ny\ny\n")
    chat.until("Allow?")
    assert "Warning: 2 lines typed before the question is thrown away." in chat.text
    assert (workspace / "app.py").read_text() == "old = 1\n"
    chat.end_of_input()  # which is a no
    assert chat.ended() == 0
    assert "Denied: the user refused it" in chat.text
    assert (workspace / "app.py").read_text() == "old = 1\n"


def test_lines_from_a_pipe_are_taken_one_after_the_other(start, unlabelled: Unlabelled) -> None:
    chat = start("text: One.\n---\ntext: Two.", "pipe")
    chat.send("first\n!echo mine\n/nonsense\nsecond\n/quit\n")
    assert chat.ended() == 0
    lines = [line for line in chat.text.split("\n") if line and not line.startswith(("Cache", "Session"))]
    assert lines == [
        "Loading the model.", "Ready. Model scripted:script.txt.",
        "You: first", "Answer: One.", "Ready.",
        "You: !echo mine", "Shell: echo mine, exit 0", "  mine", "  [exit 0]", "Ready.",
        "You: /nonsense", "Error: there is no command /nonsense: /help lists them", "Ready.",
        "You: second", "Answer: Two.", "Ready.",
        "You: /quit",
    ]  # fmt: skip
    assert b"\x1b" not in chat.data
    assert not unlabelled(chat.text)


def test_the_end_of_a_pipe_leaves_after_the_work_is_done(start) -> None:
    chat = start("delay: 0.5\ntext: One.", "pipe")
    chat.send("first")
    chat.end_of_input()
    assert chat.ended() == 0
    assert "Answer: One.\n" in chat.text


def test_an_interrupt_stops_the_turn_and_twice_leaves(start) -> None:
    chat = start("text: |\n  Begun.\n  Going on.\ndelay: 60\ntext: Never.\n---\ntext: Again.")
    chat.until("> ")
    chat.send("wait\n")
    chat.until("Answer: Begun.")
    chat.send("\x03")
    chat.until("Notice: stopping.")
    chat.until("Interrupted.\n")
    chat.until("> ")
    chat.send("and now?\n")
    chat.until("Answer: Again.\n")
    chat.until("Ready.\n> ")
    chat.send("\x03")
    chat.until("Notice: Ctrl+C once more leaves.")
    chat.send("\x03")
    assert chat.ended() == 0
    assert b"\x1b" not in chat.data


def test_a_session_is_taken_up_again_in_short(start) -> None:
    chat = start("text: An answer.", "pipe")
    chat.send("a question\n")
    chat.end_of_input()
    assert chat.ended() == 0
    chat = start("text: More.", "pipe", resume="last")
    chat.until("Session: taken up again, 1 prompt.\nLast prompt: a question\nLast answer: An answer.\n")
    chat.send("more\n")
    chat.until("Answer: More.\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("kind", ["dumb", "xterm"])
def test_a_signal_ends_it_cleanly(start, workspace: Path, number: signal.Signals, kind: str) -> None:
    import termios

    chat = start("text: Said.\n---\ndelay: 60\ntext: Never.", kind)
    before = termios.tcgetattr(chat._read_from)
    chat.until(">")
    chat.send("hello\r")
    chat.until("Answer: Said.")
    chat.until("Ready.")
    chat.send("wait\r")
    chat.until("wait")
    chat.signal(number)
    assert chat.ended() == 128 + number
    assert "Traceback" not in chat.text
    assert list((workspace.parent / "state" / "sessions").iterdir())
    assert termios.tcgetattr(chat._read_from) == before


def test_a_terminal_that_goes_away_ends_it(start) -> None:
    chat = start("text: Said.")
    chat.until("> ")
    chat.end_of_input()  # closes the master side: the kernel hangs up
    assert chat.process.wait(60) == 128 + signal.SIGHUP


PROMPTS = b"first\nsecond\n"
ONE_EDIT_LATER = f"text: Hello.\n---\ndelay: 0.2\n{EDIT}---\ntext: Done."


def _chat(workspace: Path, **streams: object) -> tuple[int, str]:
    """A chat through the command line that takes `PROMPTS` from a pipe: its exit code and standard error."""
    script = workspace.parent / "script.txt"
    script.write_text(ONE_EDIT_LATER)
    command = [sys.executable, "-m", "dsv4_agent.cli.main", "chat", "--model", f"scripted:{script}"]
    command += ["--plain", "--permission-mode", "accept-edits"]
    done = subprocess.run(
        command, cwd=workspace, input=PROMPTS, stderr=subprocess.PIPE, timeout=60, **streams,  # type: ignore[call-overload]
    )  # fmt: skip
    return done.returncode, done.stderr.decode()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_output_that_can_not_be_written_ends_it_and_is_said(workspace: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        code, said = _chat(workspace, stdout=full)
    assert code == 54
    assert said.startswith("dsv4: error: the output can't be written: ") and "Free some space." in said
    assert (workspace / "app.py").read_text() == "old = 1\n"


def test_a_reader_that_goes_away_ends_it(workspace: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert _chat(workspace, stdout=writing) == (141, "")
    finally:
        os.close(writing)
    assert (workspace / "app.py").read_text() == "old = 1\n"


@pytest.mark.parametrize("closed", [0, 1])
def test_a_stream_that_was_closed_is_an_empty_one(workspace: Path, closed: int) -> None:
    code, said = _chat(workspace, stdout=subprocess.DEVNULL, preexec_fn=lambda: os.close(closed))
    assert (code, said) == (0, "")


def test_a_session_that_could_not_be_written_is_not_said_to_be_kept(workspace: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    reading, writing = os.pipe()
    _chat(workspace, stdout=writing, preexec_fn=small_files)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as file:
        said = file.read()
    assert "can't be written" in said and "Session:" not in said


def test_keys_on_a_real_terminal(start, workspace: Path) -> None:
    chat = start(f"{EDIT}---\ntext: Done.", "xterm")
    chat.until(">")
    chat.send("\x1b[Z")
    chat.until("Permission mode: accept-edits")
    chat.send("rename it\r")
    chat.until("Added: new = 1")
    chat.until("Ready.")
    chat.send("\x04")
    assert chat.ended() == 0
    assert (workspace / "app.py").read_text() == "new = 1\n"
    assert "\x1b[?1049h" not in chat.text  # no alternate screen
    assert "\x1b[6n" not in chat.text  # no question about the cursor


def test_a_plan_is_carried_out_after_a_yes(start, workspace: Path) -> None:
    chat = start(f"text: The plan.\n---\n{EDIT}---\ntext: Done.", mode="plan")
    chat.until("> ")
    chat.send("plan it\n")
    chat.until("Carry out this plan? [y]es, [e]dits without asking, [n]o: ")
    chat.send("e\n")
    chat.until("Permission mode: accept-edits.\nYou: Carry out the plan.\n")
    chat.until("Answer: Done.")
    assert (workspace / "app.py").read_text() == "new = 1\n"
