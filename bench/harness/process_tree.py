"""Memory of a process and all that it has started."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class _Process:
    parent: int
    size: int
    pages: int


def resident_bytes(root: int) -> int:
    """Resident memory of `root` and its descendants together; shared pages count once a process."""
    table = _table()
    children: dict[int, list[int]] = {}
    for number, process in table.items():
        children.setdefault(process.parent, []).append(number)
    total, waiting = 0, [root]
    while waiting:
        number = waiting.pop()
        waiting += children.get(number, ())
        if (process := table.get(number)) is None:
            continue
        parent = table.get(process.parent)
        # A child that was made a moment ago has its parent's memory, no copy of it, until its program starts.
        if parent is None or number == root or (parent.size, parent.pages) != (process.size, process.pages):
            total += process.pages * _PAGE
    return total


def _table() -> dict[int, _Process]:
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            stat = (folder / "stat").read_text()
        except OSError:
            continue  # it has just ended
        fields = stat.rpartition(")")[2].split()
        found[int(folder.name)] = _Process(int(fields[1]), int(fields[20]), int(fields[21]))
    return found
