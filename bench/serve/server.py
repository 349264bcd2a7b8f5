"""A `dsv4 serve` of the benchmark's own, and what it takes of the machine."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

TOKEN = "bench-serve-token-of-its-own"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Running:
    """A server: where it is, and its process."""

    url: str
    pid: int


@contextmanager
def serving(*arguments: str) -> Iterator[Running]:
    """`dsv4 serve` with V4-Nano on a free port, as users start it, while inside."""
    command = (sys.executable, "-m", "dsv4_agent.cli.main", "serve", "--model", "nano", "--port", "0")
    # A state folder of its own: `dsv4 run` of whoever measures must not find this server.
    folder = tempfile.TemporaryDirectory(prefix="dsv4-bench-")
    environment = {**os.environ, "DSV4_SERVE_TOKEN": TOKEN, "DSV4_STATE_DIR": folder.name}
    process = subprocess.Popen([*command, "--ephemeral", *arguments], stdout=subprocess.PIPE, env=environment)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        if "http" not in line:
            raise SystemExit(f"dsv4 serve did not start: {line}")
        yield Running(line.split()[-1], process.pid)
    finally:
        process.terminate()
        process.wait(60)
        folder.cleanup()


@dataclass(frozen=True, slots=True)
class Sample:
    """The server at a moment: seconds since the watch began, resident bytes, processor seconds."""

    at: float
    resident: int
    processor: float


async def watch(pid: int, samples: list[Sample]) -> None:
    """Look once a second, until cancelled."""
    began = monotonic()
    while True:
        samples.append(Sample(monotonic() - began, resident(pid), processor(pid)))
        await asyncio.sleep(1)


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)


def processor(pid: int) -> float:
    """Seconds of processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def slope(samples: Sequence[Sample]) -> float:
    """Bytes a minute by which the resident memory grows, by least squares."""
    if len(samples) < 2:
        return 0.0
    times = [sample.at for sample in samples]
    middle = sum(times) / len(times)
    mean = sum(sample.resident for sample in samples) / len(samples)
    above = sum((sample.at - middle) * (sample.resident - mean) for sample in samples)
    below = sum((time - middle) ** 2 for time in times)
    return 60 * above / below if below else 0.0
