"""A real process on a pseudo-terminal, and the screen that a person would see there.

    with Terminal([sys.executable, "-m", "dsv4_agent.cli.main", "chat"], env=...) as terminal:
        terminal.wait_for("ready")
        terminal.send("hello\\r")

Nothing sleeps for a fixed time: every wait is for something on the screen, in the bytes, or of the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pyte

PATIENCE: Final = 60.0
"""Seconds until a wait fails; the machine may be busy with something else."""

# pyte takes these for other sequences or prints them: keyboard protocol, modifyOtherKeys, device strings.
_UNKNOWN: Final = re.compile(rb"\x1b\[[<>=][0-9;]*[a-zA-Z]|\x1b\[\?[0-9;]*\$p|\x1bP[^\x1b]*\x1b\\")
_UNFINISHED: Final = re.compile(rb"\x1b(\[[0-9;?<>=$]*|[\]P][^\x07\x1b]*\x1b?)?\Z")
_ESCAPES: Final = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\^_=>78]")


class Terminal:
    """A process that has a terminal of `columns` x `rows` to itself.

    `output` holds every byte that it has written, `lines` what the screen shows after them (unless `draw` is
    false). Without `echo`, keys are not shown by the terminal itself before the program takes it over.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        columns: int = 80,
        rows: int = 24,
        draw: bool = True,
        echo: bool = True,
    ) -> None:
        self.output = bytearray()
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._draw = draw
        self._held = b""
        self._master, slave = pty.openpty()
        _set_size(slave, columns, rows)
        if not echo:
            _without_echo(slave)
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            close_fds=True,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(slave)
        os.set_blocking(self._master, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)

    # -- input -------------------------------------------------------------------------------------------

    def send(self, keys: str | bytes) -> None:
        """Press keys: their bytes go to the terminal, however many there are."""
        data = keys.encode() if isinstance(keys, str) else keys
        while data:
            try:
                data = data[os.write(self._master, data) :]
            except BlockingIOError:
                self.read(0.05)  # who draws while it reads must not be kept from drawing

    def paste(self, text: str) -> None:
        """Insert text as a terminal with bracketed paste does."""
        self.send(f"\x1b[200~{text}\x1b[201~")

    def resize(self, columns: int, rows: int) -> None:
        """Another size; the kernel tells the process by SIGWINCH."""
        self._screen.resize(rows, columns)
        _set_size(self._master, columns, rows)

    def signal(self, number: int) -> None:
        """Send a signal to the process, and to it alone."""
        os.kill(self.process.pid, number)

    def close(self) -> None:
        """Take the terminal away, as a closed window does."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    # -- output ------------------------------------------------------------------------------------------

    def read(self, seconds: float) -> bool:
        """Take in what has been written, waiting for it at most so long; False when there was nothing."""
        if self._master < 0 or not select.select([self._master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._master, 1 << 16)
        except BlockingIOError:
            return False
        except OSError:  # every process that had the other side has gone
            return False
        self.output += data
        if self._draw:
            self._feed(data)
        return bool(data)

    @property
    def lines(self) -> list[str]:
        """The rows of the screen, without the blanks at their ends."""
        return [line.rstrip() for line in self._screen.display]

    @property
    def shown(self) -> str:
        """The screen as one text."""
        return "\n".join(self.lines)

    def written(self, start: int = 0) -> str:
        """Everything written from byte `start` on, without escape sequences."""
        return _ESCAPES.sub(b"", bytes(self.output[start:])).decode("utf-8", "replace")

    def until(self, holds: Callable[[], object], what: str = "", seconds: float = PATIENCE) -> None:
        """Read until something is so; the screen as it is then is the message of a failure."""
        deadline = time.monotonic() + seconds
        while not holds():
            ended = self.process.poll() is not None
            if self.read(0.05):
                continue
            state = f"exit code {self.process.returncode}" if ended else "running"
            message = f"waited in vain for {what or holds}; {state}; the screen:\n{self.shown}"
            assert time.monotonic() < deadline and not (ended and not holds()), message

    def wait_for(self, text: str, *, seconds: float = PATIENCE) -> None:
        """Read until the screen shows a text, line breaks being blanks."""
        self.until(lambda: _joined(text) in _joined(self.shown), repr(text), seconds)

    def wait_until_gone(self, text: str) -> None:
        """Read until the screen does not show a text any more."""
        self.until(lambda: _joined(text) not in _joined(self.shown), f"the end of {text!r}")

    def wait_until_quiet(self, seconds: float) -> None:
        """Read for so long: for what is defined by a pause between keys."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.read(left)

    def wait_for_bytes(self, data: bytes, start: int = 0) -> None:
        """Read until the process has written some bytes, from byte `start` on."""
        self.until(lambda: data in self.output[start:], repr(data))

    def wait_for_end(self) -> int:
        """Read until the process has ended; its exit code, 128 + number for a signal."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            self.read(0.05)
            assert time.monotonic() < deadline, f"the process does not end; the screen:\n{self.shown}"
        while self.read(0.0):
            pass
        code = self.process.returncode
        return 128 - code if code < 0 else code

    def _feed(self, data: bytes) -> None:
        data = self._held + data
        cut = _UNFINISHED.search(data)
        self._held = data[cut.start() :] if cut else b""
        self._stream.feed(_UNKNOWN.sub(b"", data[: cut.start()] if cut else data))


def open_chat(
    dsv4: Any, script: str, *arguments: str, columns: int = 80, rows: int = 24, **environment: str
) -> Terminal:
    """`dsv4 chat` over a script, in the repository and with the state of the `dsv4` fixture."""
    model = ("--model", dsv4.script(script)) if script else ()
    return Terminal(
        [sys.executable, "-P", "-m", "dsv4_agent.cli.main", "chat", *model, *arguments],
        env=chat_environment(dsv4) | environment,
        cwd=dsv4.repository,
        columns=columns,
        rows=rows,
    )


def chat_environment(dsv4: Any) -> dict[str, str]:
    """What a person's terminal sets, and nothing of what the test run's does."""
    foreign = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TEXTUAL", "CI", "TERM_PROGRAM")
    kept = {name: value for name, value in dsv4.env().items() if not name.startswith(foreign)}
    own = {"DSV4_CONFIG_DIR": str(dsv4.home / "config"), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    return kept | own


def _joined(text: str) -> str:
    return " ".join(text.split())


def _take_terminal() -> None:
    """In the child, after `setsid`: standard input becomes its controlling terminal."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _without_echo(descriptor: int) -> None:
    modes = termios.tcgetattr(descriptor)
    modes[3] &= ~termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSANOW, modes)


def _set_size(descriptor: int, columns: int, rows: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
