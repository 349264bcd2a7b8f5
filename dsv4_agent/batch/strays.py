"""Processes that a killed worker left behind in a worktree: found by their working directory (Linux)."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_PATIENCE = 2.0  # seconds for the killed to be gone


def end_strays(worktree: Path) -> int:
    """Kill every process of this user that works in `worktree`; how many there were."""
    killed = 0
    deadline = time.monotonic() + _PATIENCE
    while (found := _working_in(worktree)) and time.monotonic() < deadline:
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
        time.sleep(0.01)
    return killed


def _working_in(worktree: Path) -> list[int]:
    top = str(worktree.resolve())
    found: list[int] = []
    with suppress(OSError):
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with suppress(OSError):
                place = os.readlink(f"{entry.path}/cwd")  # noqa: PTH115 - the text of the link is wanted
                if place == top or place.startswith(f"{top}/"):
                    found.append(int(entry.name))
    return found
