"""A command's processes among all others, by group, session or mark, and only those begun since."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from dsv4_tools.process_table import living, ticks_now

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
WAIT = "print(1, flush=True); input()"


@pytest.fixture
def marked() -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, with a mark; it runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAIT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "MARK": "of-this-test"},
        start_new_session=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.communicate(b"\n")


def test_found_by_group_and_by_mark(marked: subprocess.Popen[bytes]) -> None:
    assert living(marked.pid, b"no such mark", 0) == [marked.pid]
    assert living(-1, b"MARK=of-this-test", 0) == [marked.pid]
    assert living(-1, b"MARK=of-another", 0) == []


def test_what_was_there_before_is_not_the_commands(marked: subprocess.Popen[bytes]) -> None:
    now = ticks_now()
    assert now > 0, "this system counts otherwise"
    assert living(marked.pid, b"no such mark", now + 100) == []


def test_a_process_that_begins_now_is_not_too_old() -> None:
    since = ticks_now()
    with subprocess.Popen(
        [sys.executable, "-c", WAIT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert living(process.pid, b"no such mark", since) == [process.pid]
        process.communicate(b"\n")


def test_the_dead_are_not_living() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays in the table, unburied
    assert living(process.pid, b"no such mark", 0) == []
    process.wait()
