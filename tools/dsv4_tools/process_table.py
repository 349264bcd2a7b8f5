"""Find the processes of one command among all of the machine (Linux), in about a millisecond."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import Final

_READ: Final = 1 << 20
"""Bytes of an environment that are looked at."""


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the table. `began` counts clock ticks since the machine's start."""

    state: str
    group: int
    session: int
    began: int


def ticks_now() -> int:
    """The moment, as `Process.began` counts it; 0 where this system counts otherwise."""
    now = int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))
    try:
        own = _process(b"self")
    except (OSError, ValueError):
        return 0
    return now if 0 < own.began <= now else 0


def living(group: int, needle: bytes, since: int) -> list[int]:
    """Processes begun at `since` or later, in this group or session or with `needle` in their environment."""
    found: list[int] = []
    for name in os.listdir(b"/proc"):  # noqa: PTH208 - paths as objects cost more than all the rest
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError):
            process = _process(name)
            if process.began < since or process.state == "Z":
                continue
            if group in (process.group, process.session) or needle in _read(b"/proc/%b/environ" % name):
                found.append(int(name))
    return found


def _process(name: bytes) -> Process:
    """Raises `OSError` for one that has ended. A program's name may hold blanks and parentheses."""
    fields = _read(b"/proc/%b/stat" % name).rpartition(b")")[2].split()
    return Process(fields[0].decode(), int(fields[2]), int(fields[3]), int(fields[19]))


def _read(path: bytes) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(descriptor, _READ):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)
