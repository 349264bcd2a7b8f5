"""Run a command in its own session and be sure that nothing of it stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsv4_tools.base import ToolError
from dsv4_tools.output import OutputBuffer
from dsv4_tools.process_table import living, ticks_now

GRACE = 2.0  # seconds between SIGTERM and SIGKILL
BYTE_LIMIT = 64_000_000
_DRAIN = 0.3  # seconds to read what is left in the pipe once the command is gone
_MARK = "DSV4_CALL"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended; `exit_code` is None when it was stopped for time or for too much output."""

    exit_code: int | None
    timed_out: bool
    flooded: bool


async def run_process(
    argv: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    seconds: float,
    output: OutputBuffer,
) -> Ended:
    """Run `argv` with stdin closed and both outputs in one pipe, fed to `output`.

    Everything the command started is killed before this returns, however it ends: its process group, and on
    Linux also what left the group, found by a mark in its environment. Raises ToolError when it cannot start.
    """
    mark = uuid.uuid4().hex
    since = ticks_now() if sys.platform.startswith("linux") else 0
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    pipe = _Pipe(read_end, output)
    try:
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                cwd=cwd,
                env={**environment, _MARK: mark},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise ToolError(f"the command could not be started: {error}.") from error
        finally:
            os.close(write_end)
        pipe.start()
        try:
            return await _wait(process, pipe, seconds)
        finally:
            await _finish(process, mark, since)
            await pipe.drain()
    finally:
        pipe.close()


async def _wait(process: asyncio.subprocess.Process, pipe: _Pipe, seconds: float) -> Ended:
    waiting = asyncio.ensure_future(process.wait())
    flooded = asyncio.ensure_future(pipe.flooded.wait())
    try:
        await asyncio.wait({waiting, flooded}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            code = waiting.result()
            return Ended(128 - code if code < 0 else code, False, False)
        return Ended(None, not pipe.flooded.is_set(), pipe.flooded.is_set())
    finally:
        waiting.cancel()
        flooded.cancel()


async def _finish(process: asyncio.subprocess.Process, mark: str, since: int) -> None:
    """Stop what is left. Also runs while the task is being cancelled, so every await is short."""
    left = _left(process.pid, mark, since)
    _signal(process.pid, left, signal.SIGTERM)
    deadline = asyncio.get_running_loop().time() + GRACE
    while process.returncode is None or left:
        if asyncio.get_running_loop().time() > deadline:
            _signal(process.pid, left, signal.SIGKILL)
            break
        with contextlib.suppress(asyncio.CancelledError):  # a second cancel must not spare the children
            await asyncio.sleep(0.02)
        left = _left(process.pid, mark, since)
    with contextlib.suppress(asyncio.CancelledError, TimeoutError):
        await asyncio.wait_for(process.wait(), GRACE)


def _signal(group: int, pids: Sequence[int], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _left(group: int, mark: str, since: int) -> list[int]:
    """Living processes of the command: in its group or session, or carrying its mark (Linux).

    Elsewhere only the group is known, and its number stands for all of it.
    """
    if sys.platform.startswith("linux"):
        return living(group, f"{_MARK}={mark}".encode(), since)
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return []
    return [group]


class _Pipe:
    """The reading end of the command's output, watched by the event loop."""

    def __init__(self, descriptor: int, output: OutputBuffer) -> None:
        self._descriptor = descriptor
        self._output = output
        self._watched = False
        self._ended = asyncio.Event()
        self.flooded = asyncio.Event()

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self._descriptor, self._ready)
        self._watched = True

    async def drain(self) -> None:
        """Read to the end, but wait only briefly: a daemon may hold the pipe open."""
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):
            await asyncio.wait_for(self._ended.wait(), _DRAIN)

    def close(self) -> None:
        self._unwatch()
        os.close(self._descriptor)

    def _unwatch(self) -> None:
        if self._watched:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            self._watched = False

    def _ready(self) -> None:
        try:
            data = os.read(self._descriptor, 65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._unwatch()
            self._ended.set()
            return
        if self._output.received < BYTE_LIMIT:
            self._output.feed(data)
        else:
            self.flooded.set()
