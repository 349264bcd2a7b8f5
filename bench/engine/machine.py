"""What the machine itself can do, and what a process takes of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from bench.engine.contestants import timed

READ_BYTES = 512 << 20


def read_bandwidth(threads: int, repeats: int = 5) -> float:
    """Best bytes per second of summing half a GiB: the ceiling of decoding, which reads every weight."""
    torch.set_num_threads(threads)
    data = torch.ones(READ_BYTES // 4)
    return READ_BYTES / min(timed(data.sum) for _ in range(repeats))


def resident_bytes(pid: int | str = "self") -> int | None:
    """Memory of a process that is in RAM now; None where the system doesn't tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


def memory_of(arguments: list[str]) -> int | None:
    """What a fresh process reports after holding one context in one engine (see `__main__`)."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.engine", "--memory-only", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.split()
    return int(lines[-1]) if done.returncode == 0 and lines and lines[-1].isdigit() else None
