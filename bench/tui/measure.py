"""The measurements: each takes a program on a terminal and gives figures in seconds, bytes or shares."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.end_to_end.pty_screen import Terminal

IDLE_LETTERS: Final = "".join(map(chr, range(0x410, 0x450)))
STREAM_LETTERS: Final = "".join(map(chr, (*range(0x531, 0x557), *range(0x561, 0x587))))
"""Typed once each, to be found in what is written: they stand nowhere else, and in no escape sequence."""
_TICKS: Final = os.sysconf("SC_CLK_TCK")

Start = Callable[[], Terminal]


@dataclass(frozen=True, slots=True)
class Echo:
    """Seconds from a key to the bytes that show it."""

    median: float
    p95: float
    worst: float

    @classmethod
    def of(cls, seconds: list[float]) -> Echo:
        """From single delays."""
        ordered = sorted(seconds)
        return cls(
            ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)], ordered[-1]
        )


@dataclass(frozen=True, slots=True)
class Stream:
    """What a stream cost, and how keys fared meanwhile."""

    words_per_second: float
    cpu_per_100_words: float
    echo: Echo | None


def launch(start: Start, patience: float = 20.0) -> float | None:
    """From exec until a typed letter is echoed; None where none is."""
    with start() as terminal:
        letters = itertools.cycle(IDLE_LETTERS)
        sent: list[bytes] = []
        while (now := time.perf_counter()) < terminal.started + patience and terminal.process.poll() is None:
            letter = next(letters).encode()
            sent.append(letter)
            terminal.send(letter)
            while (left := now + 0.01 - time.perf_counter()) > 0:
                if terminal.read(left) and any(letter in terminal.output for letter in sent):
                    return time.perf_counter() - terminal.started
    return None


def settle(terminal: Terminal, quiet: float = 1.5, patience: float = 15.0) -> None:
    """Read until little more than a blinking cursor is written."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        before, until = len(terminal.output), time.monotonic() + quiet
        while time.monotonic() < until:
            terminal.read(0.05)
        if len(terminal.output) - before < 4_000:
            return


def echoes(terminal: Terminal, letters: str, pause: float = 0.08) -> Iterator[float]:
    """Type letters with pauses between them."""
    for number, letter in enumerate(letters):
        mark = len(terminal.output)
        sent = time.perf_counter()
        terminal.send(key := letter.encode())
        _read_until(terminal, lambda key=key, mark=mark: key in terminal.output[mark:], 10.0)
        yield time.perf_counter() - sent
        # Not in step with anything that ticks.
        quiet_until = time.perf_counter() + pause + (number % 7) * 0.007
        while (left := quiet_until - time.perf_counter()) > 0:
            terminal.read(left)


def stream(terminal: Terminal, begin: bytes, count: int, end: bytes, letters: str = "") -> Stream:
    """Press `begin`, wait for `end` after `count` words, typing meanwhile where asked to."""
    mark = len(terminal.output)
    before, started = cpu_seconds(terminal.process.pid), time.perf_counter()
    terminal.send(begin)
    typed: list[float] = []
    if letters:
        _read_until(terminal, lambda: len(terminal.output) > mark + 4_000, 10.0)
        for delay in echoes(terminal, letters):
            typed.append(delay)
            if end in terminal.output[mark:]:
                break
    _read_until(terminal, lambda: end in terminal.output[mark:], 120.0)
    took, used = time.perf_counter() - started, cpu_seconds(terminal.process.pid) - before
    return Stream(count / took, used * 100 / count, Echo.of(typed) if typed else None)


def idle_share(terminal: Terminal, seconds: float = 5.0) -> float:
    """CPU time of the process per second, with nobody at the keys."""
    before, started = cpu_seconds(terminal.process.pid), time.perf_counter()
    while (left := started + seconds - time.perf_counter()) > 0:
        terminal.read(left)
    return (cpu_seconds(terminal.process.pid) - before) / (time.perf_counter() - started)


def pages(terminal: Terminal, count: int) -> Echo:
    """PageUp to the first bytes of another picture; a whole page writes far more than a cursor does."""
    delays: list[float] = []
    for _ in range(count):
        mark = len(terminal.output)
        sent = time.perf_counter()
        terminal.send(b"\x1b[5~")
        _read_until(terminal, lambda mark=mark: len(terminal.output) > mark + 1_500, 10.0)
        delays.append(time.perf_counter() - sent)
        while terminal.read(0.12):
            pass
    return Echo.of(delays)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process with all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident(pid: int) -> int:
    """Bytes in memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"no VmRSS for {pid}")


def _read_until(terminal: Terminal, holds: Callable[[], bool], patience: float) -> None:
    deadline = time.monotonic() + patience
    while not holds():
        if time.monotonic() > deadline or (terminal.process.poll() is not None and not terminal.read(0.0)):
            raise TimeoutError(f"the program does not answer: {terminal.written()[-300:]!r}")
        terminal.read(0.05)
