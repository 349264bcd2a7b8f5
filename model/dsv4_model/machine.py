"""What this machine has: memory that may be used, GPUs, free disk. Asks nothing that needs PyTorch."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Gpu", "Machine", "read_machine"]

_UNLIMITED: Final = 1 << 60  # cgroup v1 writes "no limit" as a number near 2^63
_GPU_TIMEOUT: Final = 5.0  # seconds; a driver in trouble may hang for minutes
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU; bytes."""

    name: str
    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Machine:
    """Bytes of memory (``available``: usable without swapping, within container limits) and free disk.

    None where the system doesn't say.
    """

    available: int | None
    total: int | None = None
    disk_free: int | None = None
    gpus: tuple[Gpu, ...] = ()


def read_machine(folder: Path, *, root: Path = Path("/"), gpus: bool = True) -> Machine:
    """Look at the machine.

    Args:
        folder: where the weights are or would be; its file system's free space counts.
        root: where ``proc`` and ``sys`` lie.
        gpus: also ask ``nvidia-smi``, if there is one; any failure means no GPU.
    """
    total, available = _meminfo(root / "proc" / "meminfo")
    if available is None:
        total, available = _sysconf()
    for limit, room in _cgroups(root):
        total = limit if total is None else min(total, limit)
        available = room if available is None else min(available, room)
    return Machine(available, total, _disk_free(folder), _gpus() if gpus else ())


def _meminfo(file: Path) -> tuple[int | None, int | None]:
    found: dict[str, int] = {}
    for line in (_text(file) or "").splitlines():
        name, _, rest = line.partition(":")
        number = rest.split()[:1]
        if number and number[0].isdecimal():
            found[name] = int(number[0]) * 1024
    return found.get("MemTotal"), found.get("MemAvailable")


def _sysconf() -> tuple[int | None, int | None]:
    """For systems without /proc. Where free pages aren't told (macOS), all memory counts as available."""
    values: list[int | None] = []
    for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"):
        try:
            pages = os.sysconf(name)
            values.append(pages * os.sysconf("SC_PAGE_SIZE") if pages > 0 else None)
        except (AttributeError, ValueError, OSError):
            values.append(None)
    total, available = values
    return total, available if available is not None else total


def _cgroups(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and remaining room of this process' control group and of each above it, where limited."""
    for line in (_text(root / "proc" / "self" / "cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        base = root / "sys" / "fs" / "cgroup"
        if "memory" in controllers.split(","):
            base = base / "memory"
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        elif number == "0" and not controllers:
            files = ("memory.max", "memory.current", "inactive_file")
        else:
            continue
        for folder in _up_to(base, path):
            found = _limit(folder, *files)
            if found is not None:
                yield found


def _up_to(base: Path, path: str) -> Iterator[Path]:
    """``base / path`` and its parents up to ``base``, which alone exists in some containers."""
    folder = base
    yield folder
    for part in path.split("/"):
        if part == "..":  # the group lies outside of this container's view
            return
        if part:
            folder = folder / part
            yield folder


def _limit(folder: Path, limit_file: str, usage_file: str, reclaimable: str) -> tuple[int, int] | None:
    limit, usage = (_text(folder / name) for name in (limit_file, usage_file))
    if limit is None or usage is None or not (limit.strip().isdecimal() and usage.strip().isdecimal()):
        return None
    if int(limit) >= _UNLIMITED:
        return None
    cached = 0  # the page cache counts as usage but gives way
    for line in (_text(folder / "memory.stat") or "").splitlines():
        name, _, value = line.partition(" ")
        if name == reclaimable and value.strip().isdecimal():
            cached = int(value)
    return int(limit), max(0, int(limit) - max(0, int(usage) - cached))


def _disk_free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _gpus() -> tuple[Gpu, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(
            query, stdin=subprocess.DEVNULL, capture_output=True, timeout=_GPU_TIMEOUT, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(_parse_gpus(answer.stdout.decode("utf-8", "replace")))


def _parse_gpus(text: str) -> Iterator[Gpu]:
    for line in text.splitlines():
        name, *sizes = (field.strip() for field in line.rsplit(",", 2))
        if len(sizes) == 2 and all(size.isdecimal() for size in sizes):  # [N/A] where memory is shared
            yield Gpu(name, int(sizes[0]) * _MIB, int(sizes[1]) * _MIB)


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
