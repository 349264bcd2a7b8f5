"""Memory of a process and all that it has started."""

from __future__ import annotations

import os
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(root: int) -> int:
    """Resident memory of `root` and its descendants together; shared pages count once a process."""
    children: dict[int, list[int]] = {}
    sizes: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            stat = (folder / "stat").read_text()
        except OSError:
            continue  # it has just ended
        fields = stat.rpartition(")")[2].split()
        process = int(folder.name)
        children.setdefault(int(fields[1]), []).append(process)
        sizes[process] = int(fields[21]) * _PAGE
    total, waiting = 0, [root]
    while waiting:
        process = waiting.pop()
        total += sizes.get(process, 0)
        waiting += children.get(process, ())
    return total
