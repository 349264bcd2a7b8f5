"""Load on `dsv4 serve`: errors, memory over time, fairness, speed.

    python -m bench.serve [--clients 64] [--minutes 5] [--out bench/results/serve.json]

A server of its own runs as users start it; its memory is read from /proc while the clients stream.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import monotonic

import httpx

from bench.serve.clients import Tally, client

TOKEN = "bench-serve-token-of-its-own"


def main() -> int:
    """Run, print a table, write the figures. The exit code is 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    server, url = start()
    try:
        alone, _ = asyncio.run(load(url, 1, 10.0, server.pid))
        together, memory = asyncio.run(load(url, given.clients, given.minutes * 60, server.pid))
    finally:
        server.terminate()
        server.wait(60)
    figures = summary(given.clients, given.minutes * 60, alone, together, memory)
    show(figures)
    if given.out is not None:
        given.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    good = not figures["errors"] and figures["memory_growth_after_warm_up"] < 1.05
    return 0 if good and figures["fairness_jain"] > 0.9 else 1


def start() -> tuple[subprocess.Popen[bytes], str]:
    """`dsv4 serve` with V4-Nano on a free port; where it is."""
    command = (sys.executable, "-m", "dsv4_agent.cli.main", "serve", "--model", "nano", "--port", "0")
    environment = {**os.environ, "DSV4_SERVE_TOKEN": TOKEN}
    server = subprocess.Popen([*command, "--ephemeral"], stdout=subprocess.PIPE, env=environment)
    assert server.stdout is not None
    line = server.stdout.readline().decode()
    if "http" not in line:
        raise SystemExit(f"dsv4 serve did not start: {line}")
    return server, line.split()[-1]


async def load(url: str, clients: int, seconds: float, pid: int) -> tuple[list[Tally], list[int]]:
    """Let so many clients ask for so long; their tallies, and the server's memory each second, bytes."""
    tallies = [Tally() for _ in range(clients)]
    until = monotonic() + seconds
    memory: list[int] = []
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(timeout=120, limits=limits, trust_env=False) as http:
        watching = asyncio.create_task(watch(pid, memory))
        async with asyncio.TaskGroup() as group:
            for number, tally in enumerate(tallies):
                group.create_task(client(number, url, TOKEN, until, tally, http))
        watching.cancel()
    return tallies, memory


async def watch(pid: int, memory: list[int]) -> None:
    """Read the resident memory once a second."""
    while True:
        memory.append(await asyncio.to_thread(resident, pid))
        await asyncio.sleep(1)


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)


def summary(
    clients: int, seconds: float, alone: Sequence[Tally], together: Sequence[Tally], memory: Sequence[int]
) -> dict[str, object]:
    """The figures. Fairness is Jain's index of tokens per client: 1 is equal shares."""
    tokens = [tally.tokens for tally in together]
    whole = sorted(time for tally in together for time in tally.whole)
    first = sorted(time for tally in together for time in tally.first)
    statuses: Counter[str] = sum((tally.statuses for tally in together), Counter())
    errors = [error for tally in (*alone, *together) for error in tally.errors]
    third = max(1, len(memory) // 3)
    return {
        "clients": clients,
        "seconds": seconds,
        "requests": sum(tally.finished for tally in together),
        "statuses": dict(statuses),
        "errors": len(errors),
        "first_errors": errors[:5],
        "tokens_per_second": sum(tokens) / seconds,
        "tokens_per_second_one_client": alone[0].tokens / 10.0,
        "fairness_jain": sum(tokens) ** 2 / (len(tokens) * sum(t * t for t in tokens) or 1),
        "request_seconds": spread(whole),
        "first_token_seconds": spread(first),
        "first_token_seconds_one_client": spread(sorted(alone[0].first)),
        "memory_after_warm_up": max(memory[third : 2 * third], default=0),
        "memory_at_the_end": max(memory[2 * third :], default=0),
        "memory_growth_after_warm_up": max(memory[2 * third :], default=1)
        / max(1, max(memory[third : 2 * third], default=1)),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile and maximum of sorted values."""
    if not values:
        return {"p50": 0.0, "p95": 0.0, "max": 0.0}
    return {"p50": median(values), "p95": values[int(len(values) * 0.95) - 1], "max": values[-1]}


def show(figures: dict[str, object]) -> None:
    """Print the figures as a table."""
    for name, value in figures.items():
        if isinstance(value, dict):
            text = "  ".join(f"{key} {number(part)}" for key, part in value.items())
        else:
            text = number(value)
        print(f"{name:<34} {text}")


def number(value: object) -> str:
    """A figure as text."""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
