"""A plain chat as a process on a pseudo-terminal or on pipes, over a scripted model."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.small_repository import small_repository

_PROGRAM = """\
import asyncio, sys
from pathlib import Path
from dsv4_agent.chat.options import ChatOptions
from dsv4_agent.permissions.decision import PermissionMode
from dsv4_agent.plain.app import chat
from dsv4_agent.workbench.model_options import ModelOptions
script, mode, resume = sys.argv[1:4]
options = ChatOptions(
    directory=Path.cwd(), model=ModelOptions(name=f"scripted:{script}"),
    permission_mode=PermissionMode(mode), resume=resume or None,
)
sys.exit(asyncio.run(chat(options)))
"""
_PATIENCE = 20  # seconds: a busy machine fails nothing


class Process:
    """A chat that runs; `text` is everything it has printed."""

    def __init__(self, process: subprocess.Popen[bytes], write_to: int, read_from: int) -> None:
        self.process = process
        self._write_to = write_to
        self._read_from = read_from
        self.data = b""
        self._seen = 0

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "replace").replace("\r\n", "\n")

    def send(self, text: str) -> None:
        os.write(self._write_to, text.encode())

    def until(self, wanted: str) -> None:
        """Wait for a text behind the one that was waited for before."""
        deadline = time.monotonic() + _PATIENCE
        while (at := self.text.find(wanted, self._seen)) < 0:
            if time.monotonic() > deadline or not self._read():
                raise AssertionError(f"{wanted!r} did not come:\n{self.text}")
        self._seen = at + len(wanted)

    def end_of_input(self) -> None:
        os.close(self._write_to)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Wait for the end; the exit code."""
        deadline = time.monotonic() + _PATIENCE
        while self._read() and time.monotonic() < deadline:
            pass
        return self.process.wait(_PATIENCE)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._read_from], [], [], 1)
        if not ready:
            return self.process.poll() is None
        try:
            data = os.read(self._read_from, 65_536)
        except OSError:
            return False
        self.data += data
        return bool(data)


Start = Callable[..., Process]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return small_repository(tmp_path, monkeypatch)


@pytest.fixture
def start(workspace: Path) -> Iterator[Start]:
    """Start a chat: `kind` is `pipe` or what TERM says on a pseudo-terminal."""
    started: list[Process] = []

    def begin(script: str, kind: str = "dumb", *, mode: str = "default", resume: str = "") -> Process:
        file = workspace.parent / "script.txt"
        file.write_text(script)
        command = [sys.executable, "-c", _PROGRAM, str(file), mode, resume]
        environment = {**os.environ, "TERM": "dumb" if kind == "pipe" else kind}
        if kind == "pipe":
            process = subprocess.Popen(
                command, cwd=workspace, env=environment, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
            )  # fmt: skip
            assert process.stdin is not None and process.stdout is not None
            # Duplicates, for a test to close when it wants to.
            ends = os.dup(process.stdin.fileno()), os.dup(process.stdout.fileno())
            process.stdin.close()
            process.stdout.close()
        else:
            master, slave = pty.openpty()
            process = subprocess.Popen(
                command, cwd=workspace, env=environment, stdin=slave, stdout=slave, stderr=slave,
                start_new_session=True,
                preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
            )  # fmt: skip
            os.close(slave)
            ends = master, master
        started.append(Process(process, *ends))
        return started[-1]

    yield begin
    for chat in started:
        if chat.process.poll() is None:
            chat.process.kill()
            chat.process.wait()


@pytest.fixture
def unlabelled() -> Callable[[str], list[str]]:
    """The lines of an output that begin with no known word."""
    from dsv4_agent.plain.labels import INDENT, PROMPT, SENTENCES, Label

    labels = "|".join(re.escape(label.value) for label in Label)
    sentences = "|".join(map(re.escape, SENTENCES))
    known = re.compile(rf"(?:{labels}):|{sentences}|{INDENT}|{PROMPT.strip()}|Allow\?|Carry out|Number,|\^C")
    return lambda text: [line for line in text.split("\n") if line.strip() and not known.match(line)]
