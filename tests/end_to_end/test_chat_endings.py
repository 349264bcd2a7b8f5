"""`dsv4 chat` on a terminal: leaving, being killed, being suspended, and coming back."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dsv4_agent.session.session import replay
from tests.end_to_end.pty_screen import Terminal, chat_environment, open_chat

AUTO = ("--permission-mode", "auto")
LEFT = (b"\x1b[?1049l", b"\x1b[?25h", b"\x1b[?2004l", b"\x1b[?1000l", b"\x1b[?1003l", b"\x1b[?1006l")
"""Alternate screen left, cursor shown, bracketed paste and mouse reporting off."""
SLEEP = "sleep\x00{}"


def sleeper(seconds: int) -> str:
    edit = "call: edit\n  path: a.py\n  old_string: old\n  new_string: new\n"
    return f"{edit}---\ncall: shell\n  command: sleep {seconds}\n---\ntext: Never.\n"


def restored(output: bytes, start: int) -> bool:
    """Whether what was last said about each of the terminal's modes puts it back."""
    tail = output[start:]
    opposite = {b"h": b"l", b"l": b"h"}
    return all(tail.rfind(mode) > tail.rfind(mode[:-1] + opposite[mode[-1:]]) for mode in LEFT)


@pytest.fixture
def clean_up() -> Iterator[list[int]]:
    """Sleepers to end after a test that may leave them behind, which would fail its next run."""
    sleepers: list[int] = []
    yield sleepers
    for seconds in sleepers:
        subprocess.run(["bash", "-c", f"kill -- $(pgrep -fx 'sleep {seconds}') 2>/dev/null"], check=False)


def start_working(chat: Terminal, helpers: Any, seconds: int) -> None:
    chat.wait_for("ready ·")
    chat.send("go\r")
    chat.until(lambda: helpers.running(SLEEP.format(seconds)), "the command")


def check_journal(dsv4: Any) -> None:
    (journal,) = dsv4.journals()
    session = replay(journal)
    assert [mark.text for mark in session.prompts] == ["go"]
    assert {call.name: call.status for call in session.calls.values()}["edit"] == "completed"
    assert (dsv4.repository / "a.py").read_text() == "def new():\n    return 1\n"


def test_ctrl_c_twice_leaves_the_terminal_as_it_was(dsv4: Any) -> None:
    with open_chat(dsv4, "text: Hello.\n") as chat:
        chat.wait_for("ready ·")
        assert not restored(chat.output, 0)
        chat.send("\x03")
        chat.wait_for("press Ctrl+C again")
        chat.send("\x03")
        assert chat.wait_for_end() == 0
        assert restored(chat.output, 0)
        assert b"Traceback" not in chat.output


@pytest.mark.parametrize("leave", ["/quit\r", "\x04", "\x11"])
def test_other_ways_to_leave(dsv4: Any, leave: str) -> None:
    with open_chat(dsv4, "text: Hello.\n") as chat:
        chat.wait_for("ready ·")
        chat.send(leave)
        assert chat.wait_for_end() == 0
        assert restored(chat.output, 0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, 129), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_all(dsv4: Any, helpers: Any, clean_up: list[int], number: int, code: int) -> None:
    clean_up.append(seconds := 97600 + number)
    with open_chat(dsv4, sleeper(seconds), *AUTO) as chat:
        start_working(chat, helpers, seconds)
        chat.signal(number)
        assert chat.wait_for_end() == code
        assert restored(chat.output, 0)
        assert b"Traceback" not in chat.output
    helpers.wait_until(lambda: not helpers.running(SLEEP.format(seconds)))
    check_journal(dsv4)


def test_a_closed_terminal_ends_it_all(dsv4: Any, helpers: Any, clean_up: list[int]) -> None:
    clean_up.append(97651)
    with open_chat(dsv4, sleeper(97651), *AUTO) as chat:
        start_working(chat, helpers, 97651)
        chat.close()
        assert chat.process.wait(30) == 129
    helpers.wait_until(lambda: not helpers.running(SLEEP.format(97651)))
    check_journal(dsv4)
    assert not list(dsv4.state.glob("**/crash*")), "no crash was reported"


def test_kill_9_then_resume_goes_on(dsv4: Any) -> None:
    script = "text: The first answer.\n---\ntext: Half an ans\ndelay: 600\ntext: wer.\n"
    with open_chat(dsv4, script) as chat:
        chat.wait_for("ready ·")
        chat.send("one\r")
        chat.wait_for("The first answer.")
        chat.wait_for("ready ·")
        chat.send("two\r")
        chat.wait_for("Half an ans")
        chat.signal(signal.SIGKILL)
        assert chat.wait_for_end() == 128 + signal.SIGKILL
    with open_chat(dsv4, "text: The next answer.\n", "--resume", "last") as chat:
        chat.wait_for("The first answer.")
        chat.wait_for("▌ one")
        chat.wait_for("ready ·")
        chat.send("three\r")
        chat.wait_for("The next answer.")
        chat.wait_for("ready ·")
    (journal,) = dsv4.journals()
    assert [mark.text for mark in replay(journal).prompts] == ["one", "two", "three"]


@pytest.mark.slow
def test_kill_9_in_a_command_then_resume_does_not_repeat_the_edit(
    dsv4: Any, helpers: Any, clean_up: list[int]
) -> None:
    clean_up.append(97661)
    with open_chat(dsv4, sleeper(97661), *AUTO) as chat:
        start_working(chat, helpers, 97661)
        chat.signal(signal.SIGKILL)
        chat.wait_for_end()
    check_journal(dsv4)
    with open_chat(dsv4, "text: Went on.\n", "--continue", *AUTO) as chat:
        chat.wait_for("edit a.py")
        chat.wait_for("ready ·")
        chat.send("go on\r")
        chat.wait_for("Went on.")
    assert (dsv4.repository / "a.py").read_text() == "def new():\n    return 1\n"


@pytest.mark.slow
def test_suspended_and_continued_from_a_shell(dsv4: Any) -> None:
    """Under a shell with job control: a process alone on its terminal can't be stopped."""
    program = [sys.executable, "-P", "-m", "dsv4_agent.cli.main", "chat"]
    line = shlex.join([*program, "--model", dsv4.script("text: Still here.\n")])
    start = dsv4.home / "start.sh"
    start.write_text(f"{line}\n")
    shell = ["bash", "--norc", "--noprofile", "--noediting", "-i"]
    env = chat_environment(dsv4) | {"PS1": "shell> "}
    with Terminal(shell, env=env, cwd=dsv4.repository) as terminal:
        terminal.wait_for("shell>")
        terminal.send(f". {shlex.quote(str(start))}\r")
        terminal.wait_for("ready ·")
        terminal.send("\x1a")
        terminal.wait_for_bytes(b"Stopped")
        stopped = len(terminal.output)
        assert restored(terminal.output, 0)
        terminal.send("echo $((6 * 7))x\r")
        terminal.wait_for_bytes(b"42x", stopped)
        terminal.send("fg\r")
        terminal.wait_for_bytes(b"\x1b[?1049h", stopped)
        terminal.until(lambda: "Ask for something" in terminal.written(stopped), "the screen anew")
        terminal.send("hello\r")
        terminal.wait_for("Still here.")
        terminal.wait_for("ready ·")
        again = len(terminal.output)
        terminal.send("\x04")
        terminal.wait_for_bytes(b"shell>", again)
        assert restored(terminal.output, stopped)
        terminal.send("echo code $?\r")
        terminal.wait_for_bytes(b"code 0", again)


@pytest.mark.slow
def test_stopped_from_outside_and_continued(dsv4: Any) -> None:
    with open_chat(dsv4, "text: Still here.\n") as chat:
        chat.wait_for("ready ·")
        chat.signal(signal.SIGTSTP)
        chat.until(lambda: stopped(chat.process.pid), "the process to be stopped")
        while chat.read(0.2):
            pass
        assert restored(chat.output, 0)
        before = len(chat.output)
        os.killpg(chat.process.pid, signal.SIGCONT)
        chat.until(lambda: "Ask for something" in chat.written(before), "the screen anew")
        chat.send("hello\r")
        chat.wait_for("Still here.")


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
