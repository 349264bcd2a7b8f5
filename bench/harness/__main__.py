"""Agents side by side around a scripted server on loopback: start, gap a turn, size of requests, memory.

    python -m bench.harness [--turns 50 400] [--agents NAME ...] [--repeats 3] [--out FILE]

Each has done one task in its home before. Peers are taken from PATH; those that aren't there are left out.
The exit code is 1 where dsv4 misses a bar.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.harness.agents import AGENTS, Agent
from bench.harness.measure import RunFailedError, measure
from bench.harness.report import Report, version_of


def main() -> int:
    """Measure, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--turns", type=int, nargs="+", default=[50, 400])
    parser.add_argument("--agents", nargs="+", default=None, metavar="NAME", help="only those beginning so")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    chosen = [agent for agent in AGENTS if _wanted(agent, given.agents)]
    report = Report({agent.name: version_of(agent) for agent in chosen})
    for turns in given.turns:
        for round in range(given.repeats):
            # Agents take turns, so that a busy moment of the machine hits all of them.
            for agent in chosen:
                print(f"{agent.name}: {turns} turns, round {round + 1}", file=sys.stderr, flush=True)
                try:
                    report.add(agent.name, measure(agent, turns))
                except RunFailedError as error:
                    print(error, file=sys.stderr)
                    report.failed(agent.name, str(error).partition("\n")[0])
    print(report.table())
    for bar in report.bars():
        print(bar)
    if given.out is not None:
        given.out.write_text(report.json(), encoding="utf-8")
    return 0 if all(bar.met for bar in report.bars()) else 1


def _wanted(agent: Agent, names: list[str] | None) -> bool:
    if agent.found is None:
        print(f"{agent.name}: {agent.program} is not on PATH", file=sys.stderr)
        return False
    return names is None or any(agent.name.startswith(name) for name in names)


if __name__ == "__main__":
    raise SystemExit(main())
