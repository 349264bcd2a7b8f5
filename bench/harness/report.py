"""The figures of several agents, the bars that dsv4 is held against, and how both are shown."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median

from bench.harness.agents import Agent
from bench.harness.measure import Figures

OWN = "dsv4"
LONG = 400
"""Turns from which a run shows how an agent ages."""
_COLUMNS = ("start", "early", "late", "first_request", "peak_memory")


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that dsv4 promises."""

    agent: str
    what: str
    value: float
    limit: float
    unit: str

    @property
    def met(self) -> bool:
        """Whether the promise is kept."""
        return self.value <= self.limit

    def __str__(self) -> str:
        verdict = "met" if self.met else "MISSED"
        return f"{verdict:7}{self.agent}: {self.what} {self.value:.3g} {self.unit} (at most {self.limit:g})"


@dataclass(slots=True)
class Report:
    """Every run of every agent."""

    versions: Mapping[str, str]
    runs: dict[tuple[str, int], list[Figures]] = field(default_factory=lambda: defaultdict(list))
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, agent: str, figures: Figures) -> None:
        """One more run."""
        self.runs[agent, figures.turns].append(figures)

    def failed(self, agent: str, why: str) -> None:
        """A run that came to nothing."""
        self.failures[agent] = why

    def typical(self, agent: str, turns: int, quantity: str) -> float:
        """The median over the runs."""
        return median(float(getattr(run, quantity)) for run in self.runs[agent, turns])

    def table(self) -> str:
        """Everything, a line for each agent and length."""
        head = (
            f"{'agent':18}{'turns':>6}{'start':>9}{'gap early':>11}{'late':>9}{'first':>10}{'last':>11}"
            f"{'peak':>9}{'CPU':>9}{'extends':>10}{'bytes':>8}"
        )
        lines = [head]
        for agent, turns in sorted(self.runs, key=lambda key: (key[1], list(self.versions).index(key[0]))):
            start, early, late, first, peak = (self.typical(agent, turns, name) for name in _COLUMNS)
            runs = self.runs[agent, turns]
            good, all = (sum(run.extended[part] for run in runs) for part in (0, 1))
            lines.append(
                f"{agent:18}{turns:6}{start:7.2f} s{early * 1000:8.1f} ms{late * 1000:6.1f} ms"
                f"{first / 1000:7.1f} KB{self.typical(agent, turns, 'last_request') / 1000:8.1f} KB"
                f"{peak / 1e6:6.0f} MB{self.typical(agent, turns, 'processor'):7.1f} s"
                f"{good / all:9.0%}{min(run.shared for run in runs):8.0%}"
            )
        lines += [f"{agent:18} failed: {why}" for agent, why in self.failures.items()]
        return "\n".join(lines)

    def bars(self) -> Iterator[Bar]:
        """What was promised, as far as it was measured."""
        for agent, turns in self.runs:
            if not agent.startswith(OWN):
                continue
            value = {name: self.typical(agent, turns, name) for name in _COLUMNS}
            shown = f"{agent}, {turns} turns"
            yield Bar(shown, "start to the first request", value["start"], 0.4, "s")
            yield Bar(shown, "gap early", value["early"] * 1000, 15, "ms")
            if turns >= LONG:
                yield Bar(shown, "gap late, of the early one", value["late"] / value["early"], 1.3, "x")
            yield Bar(shown, "first request", value["first_request"] / 1000, 14, "KB")
            yield Bar(shown, "peak memory", value["peak_memory"] / 1e6, 100, "MB")
            broken = sum(run.extended[1] - run.extended[0] for run in self.runs[agent, turns])
            yield Bar(shown, "requests that rewrite what was sent", broken, 0, "")

    def json(self) -> str:
        """Everything, for a file."""
        rows = [
            {"agent": agent, "turns": turns, "runs": [asdict(run) for run in runs]}
            for (agent, turns), runs in self.runs.items()
        ]
        bars = [asdict(bar) | {"met": bar.met} for bar in self.bars()]
        machine = {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "system": platform.system(),
            "load": [round(value, 1) for value in os.getloadavg()],
        }
        whole = {
            "machine": machine,
            "versions": self.versions,
            "rows": rows,
            "bars": bars,
            "failures": self.failures,
        }
        return json.dumps(whole, indent=1) + "\n"


def version_of(agent: Agent) -> str:
    """What the program says of itself; empty where it says nothing."""
    assert agent.found is not None
    try:
        done = subprocess.run(
            [agent.found, *agent.version], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = [line.strip() for line in done.stdout.splitlines() if any(map(str.isdigit, line))]
    return lines[0][:60] if lines else ""
