"""Load on `dsv4 serve`: errors, memory over time, fairness, speed.

    python -m bench.serve [--clients 64] [--minutes 5] [--out bench/results/serve.json]

A server as users start it: one client alone, then many for minutes, while its memory is read from /proc. Then
one with a short queue, which must refuse by policy and in no other way. Exit code 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
from pathlib import Path
from time import monotonic

import httpx

from bench.serve.clients import Tally, client
from bench.serve.figures import missed, of_load, of_memory, table
from bench.serve.server import TOKEN, Running, Sample, serving, watch
from dsv4_agent.version import __version__

_ALONE_SECONDS = 15.0
_OVERLOAD_SECONDS = 20.0


def main() -> int:
    """Run, print a table, write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    seconds = given.minutes * 60
    machine = {
        "processors": len(os.sched_getaffinity(0)),
        "system": platform.machine(),
        "load_average_before": round(os.getloadavg()[0], 2),
    }
    with serving() as server:
        alone, before = asyncio.run(load(server, 1, _ALONE_SECONDS))
        together, during = asyncio.run(load(server, given.clients, seconds))
    with serving("--max-sequences", "8", "--queue", "8") as server:
        overload, after = asyncio.run(load(server, given.clients, _OVERLOAD_SECONDS))
    figures = {
        "machine": machine,
        "versions": {"dsv4": __version__, "python": platform.python_version()},
        "alone": of_load(alone, _ALONE_SECONDS, before),
        "together": of_load(together, seconds, during),
        "overload": of_load(overload, _OVERLOAD_SECONDS, after),
        "memory": of_memory(during),
    }
    print(table(figures))
    if given.out is not None:
        given.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    lines = missed(figures)
    for line in lines:
        print(f"MISSED {line}")
    return 1 if lines else 0


async def load(server: Running, clients: int, seconds: float) -> tuple[list[Tally], list[Sample]]:
    """Let so many clients ask for so long; what they saw, and the server meanwhile."""
    tallies = [Tally() for _ in range(clients)]
    until = monotonic() + seconds
    samples: list[Sample] = []
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(timeout=120, limits=limits, trust_env=False) as http:
        watching = asyncio.create_task(watch(server.pid, samples))
        async with asyncio.TaskGroup() as group:
            for number, tally in enumerate(tallies):
                group.create_task(client(number, server.url, TOKEN, until, tally, http))
        watching.cancel()
    return tallies, samples


if __name__ == "__main__":
    sys.exit(main())
