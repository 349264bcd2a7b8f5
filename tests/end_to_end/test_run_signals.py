"""Signals, vanished readers and kill -9: the right code, no children left, files and journal whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dsv4_agent.session.session import replay

ALLOW = ("--permission-mode", "auto")


def sleeper(seconds: int, before: str = "") -> str:
    return f"{before}call: shell\n  command: sleep {seconds}\n---\ntext: never\n"


def start_and_wait(
    dsv4: Any, helpers: Any, script: str, marker: str, *options: str
) -> subprocess.Popen[bytes]:
    process = dsv4.start("run", "x", "--model", dsv4.script(script), "--json", *ALLOW, *options)
    helpers.wait_until(lambda: helpers.running(marker))
    return process  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
)
def test_a_signal_ends_the_turn_with_a_result_and_no_children(
    dsv4: Any, helpers: Any, number: signal.Signals, code: int
) -> None:
    marker = f"sleep 9{number.value}71"
    process = start_and_wait(dsv4, helpers, sleeper(int(marker.split()[1])), marker.replace(" ", "\0"))
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    events = helpers.check_stream(stdout)
    assert process.returncode == code == events[-1]["exit_code"]
    assert events[-1]["subtype"] == "aborted"
    assert not helpers.running(marker.replace(" ", "\0"))
    assert b"Traceback" not in stderr


def test_ctrl_c_while_the_model_answers(dsv4: Any, helpers: Any) -> None:
    process = dsv4.start("run", "x", "--model", dsv4.script("think: hm\ndelay: 60\ntext: never\n"), "--json")
    assert process.stdout is not None
    first = process.stdout.readline() + process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    assert helpers.check_stream(first + rest)[-1]["subtype"] == "aborted"
    assert process.returncode == 130


def test_ctrl_c_while_waiting_for_stdin(dsv4: Any, helpers: Any) -> None:
    process = dsv4.start("run", "-", "--json", stdin=subprocess.PIPE)
    assert process.stdout is not None and process.stdin is not None and process.stderr is not None
    assert b"waiting for stdin" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    (result,) = helpers.check_stream(process.stdout.read())
    assert result["subtype"] == "aborted" and result["exit_code"] == 130
    process.stdin.close()


def test_daemons_left_by_a_command_are_gone(dsv4: Any, helpers: Any) -> None:
    script = "call: shell\n  command: setsid sleep 98761 >/dev/null 2>&1 & echo started\n---\ntext: done\n"
    done = dsv4.run(script, *ALLOW)
    assert done.returncode == 0
    assert not helpers.running("sleep\x0098761")


def test_two_interrupts_end_at_once(dsv4: Any, helpers: Any) -> None:
    stubborn = (
        "call: shell\n  command: trap '' INT TERM; while true; do sleep 0.0973; done\n---\ntext: never\n"
    )
    process = start_and_wait(dsv4, helpers, stubborn, "sleep\x000.0973")
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=15)
    assert process.returncode == 130
    helpers.wait_until(lambda: not helpers.running("0.0973"), 5)


def test_a_reader_that_goes_away_is_quiet_141(dsv4: Any, helpers: Any) -> None:
    edit = "call: edit\n  path: a.py\n  old_string: old\n  new_string: new\n"
    script = f"call: read\n  path: a.py\n---\ndelay: 1\n{edit}"
    process = dsv4.start("run", "x", "--model", dsv4.script(script + "---\ntext: done\n"), "--json")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=30) == 141
    assert process.stderr.read() == b""
    process.stderr.close()
    assert (dsv4.repository / "a.py").read_text() in {
        "def old():\n    return 1\n",
        "def new():\n    return 1\n",
    }


def test_text_mode_into_a_closed_pipe_is_141(dsv4: Any) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = dsv4.start("run", "x", "--model", dsv4.script("text: hello\n"), stdout=writer)
    os.close(writer)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 141 and b"Error" not in stderr and b"Traceback" not in stderr


def test_kill_9_leaves_a_readable_journal_and_whole_files(dsv4: Any, helpers: Any) -> None:
    before = "call: edit\n  path: a.py\n  old_string: old\n  new_string: new\n---\n"
    process = start_and_wait(dsv4, helpers, sleeper(98321, before), "sleep\x0098321")
    process.kill()
    process.communicate(timeout=10)
    try:
        (journal,) = dsv4.journals()
        session = replay(journal)
        assert session.transcript.last is not None
        calls = {record.name: record for record in session.calls.values()}
        assert calls["edit"].status == "completed" and calls["edit"].result == "Edited a.py: 1 replacement."
        assert calls["shell"].result is None
        assert (dsv4.repository / "a.py").read_text() == "def new():\n    return 1\n"
        assert helpers.git(dsv4.repository, "status", "--porcelain") == "M a.py"
        assert not list(dsv4.repository.glob(".*.tmp*"))
    finally:
        subprocess.run(["bash", "-c", "kill -- $(pgrep -f 'sleep 98321') 2>/dev/null"], check=False)


def test_a_run_after_a_killed_one_works(dsv4: Any, helpers: Any) -> None:
    process = start_and_wait(dsv4, helpers, sleeper(98322), "sleep\x0098322")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert dsv4.run("text: fine\n").returncode == 0
    assert len(dsv4.journals()) == 2
    for journal in dsv4.journals():
        assert all(json.loads(line) for line in Path(journal).read_text().splitlines())


def test_a_signal_while_the_interpreter_shuts_down_changes_no_exit_code() -> None:
    program = (
        "import os, signal, sys\n"
        "from dsv4_agent.headless.interrupts import Interrupts\n"
        "class Late:\n"
        "    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGINT): kill(pid, number)\n"
        "sys.modules['late'] = Late()\n"
        "interrupts = Interrupts()\n"
        "interrupts.install()\n"
        "interrupts.ended()\n"
        "sys.exit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=30, check=False).returncode == 7
