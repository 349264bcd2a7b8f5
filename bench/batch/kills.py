"""The same batch again, its coordinator and workers killed at random moments."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_WORKER: Final = b"dsv4_agent.batch.worker"


@dataclass(frozen=True, slots=True)
class Killed:
    """How the batch ended, and how often who was killed on the way."""

    last: dict[str, Any]
    coordinator: int
    workers: int


def killed_batch(
    command: Sequence[str],
    top: Path,
    environment: Mapping[str, str],
    plan: Path,
    branch: str,
    *,
    kills: int,
    seconds: float,
    seed: int = 6,
) -> Killed:
    """Run a plan that takes `seconds` and kill (signal 9) someone `kills` times, each at a random moment.

    A coordinator that is killed is started again with `--resume`; a worker's end is left to its coordinator.
    """
    chance = random.Random(seed)
    moments = sorted(chance.uniform(0, seconds) for _ in range(kills))
    told = plan.with_name("killed.jsonl")
    victims = {"coordinator": 0, "workers": 0}

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        with told.open("wb") as out:
            return subprocess.Popen([*command, *arguments, "--json"], cwd=top, env=environment, stdout=out)

    process = start("batch", "run", str(plan), "--branch", branch)
    alive = 0.0
    for moment in moments:
        if not _lasts(process, moment - alive):
            break
        alive = moment
        workers = list(_workers_of(process.pid))
        if workers and chance.random() < 0.5:
            os.kill(chance.choice(workers), signal.SIGKILL)
            victims["workers"] += 1
            continue
        process.kill()
        process.wait()
        victims["coordinator"] += 1
        again = ("--resume",) if _has_begun(environment) else ("run", str(plan), "--branch", branch)
        process = start("batch", *again)
    process.wait()
    last: dict[str, Any] = json.loads(told.read_text(encoding="utf-8").splitlines()[-1])
    return Killed(last, **victims)


def tree_of(top: Path, branch: str) -> str:
    """The tree that a branch has delivered."""
    command = ["git", "rev-parse", f"{branch}^{{tree}}"]
    return subprocess.run(command, cwd=top, stdout=subprocess.PIPE, check=True).stdout.decode().strip()


def _lasts(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        return True
    return False


def _has_begun(environment: Mapping[str, str]) -> bool:
    """Whether the second batch has written its first record."""
    ledgers = Path(environment["DSV4_STATE_DIR"]).glob("batches/*/ledger.jsonl")
    return sum(ledger.stat().st_size > 0 for ledger in ledgers) > 1


def _workers_of(pid: int) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = path.read_text().rpartition(")")[2].split()[1]
            line = (path.parent / "cmdline").read_bytes()
        except OSError:
            continue  # it has just ended
        if parent == str(pid) and _WORKER in line:
            yield int(path.parent.name)
