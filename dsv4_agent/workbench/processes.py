"""No process that a run started outlives it.

On Linux the run becomes the reaper of orphans, so that a daemon which left its process group is still found
among the descendants; elsewhere `ps` shows those that kept their parent.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_PR_SET_DUMPABLE: Final = 4  # <linux/prctl.h>
_PR_SET_CHILD_SUBREAPER: Final = 36
_STEP: Final = 0.02  # seconds


def adopt_orphans() -> None:
    """Make orphaned descendants children of this process (Linux; elsewhere nothing happens)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def hide_memory() -> None:
    """Keep this process's memory from others of the same user, commands of tools among them.

    Linux; elsewhere nothing happens. What is started from here is as open as ever.
    """
    _prctl(_PR_SET_DUMPABLE, 0)


def blot_out(names: Iterable[str]) -> None:
    """Overwrite variables in the environment that this process was given; `os.environ` keeps its copy.

    `/proc/PID/environ` shows that first environment to every process of this user, whatever was removed from
    it since. Linux; elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.getenv.restype = ctypes.c_void_p
        library.getenv.argtypes = [ctypes.c_char_p]
        for name in names:
            if (address := library.getenv(os.fsencode(name))) is not None:
                ctypes.memset(address, ord("*"), len(ctypes.string_at(address)))


def _prctl(option: int, value: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def descendants(root: int | None = None) -> dict[int, int]:
    """Living processes below `root` (default: this one), as process id -> process group."""
    root = os.getpid() if root is None else root
    children: dict[int, list[int]] = {}
    groups: dict[int, int] = {}
    for pid, parent, group in _processes():
        children.setdefault(parent, []).append(pid)
        groups[pid] = group
    found: dict[int, int] = {}
    stack = [root]
    while stack:
        for pid in children.get(stack.pop(), []):
            found[pid] = groups[pid]
            stack.append(pid)
    return found


def kill_descendants(grace: float) -> None:
    """End everything below this process: SIGTERM, and SIGKILL for what is left after `grace` seconds."""
    if grace > 0 and descendants():
        _signal_all(signal.SIGTERM)
        deadline = time.monotonic() + grace
        while descendants() and time.monotonic() < deadline:
            time.sleep(_STEP)
    for _ in range(50):  # killing a shell may hand us its children: look again
        if not descendants():
            return
        _signal_all(signal.SIGKILL)
        time.sleep(_STEP)


def _signal_all(number: signal.Signals) -> None:
    own = os.getpgrp()
    for pid, group in descendants().items():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if group not in (own, 0):
                os.killpg(group, number)
            else:
                os.kill(pid, number)


def _processes() -> list[tuple[int, int, int]]:
    """(pid, parent, group) of every process that isn't a zombie."""
    if Path("/proc/self/stat").exists():
        return [entry for path in Path("/proc").glob("[0-9]*/stat") if (entry := _stat(path)) is not None]
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        table = subprocess.run(
            ["ps", "-axo", "pid=,ppid=,pgid=,stat="], capture_output=True, text=True, timeout=5, check=True
        ).stdout
        rows = [line.split() for line in table.splitlines()]
        return [(int(r[0]), int(r[1]), int(r[2])) for r in rows if len(r) > 3 and not r[3].startswith("Z")]
    return []


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, parent, group = text[text.rindex(")") + 2 :].split()[:3]  # the name before it may hold anything
    return None if state == "Z" else (int(path.parent.name), int(parent), int(group))
