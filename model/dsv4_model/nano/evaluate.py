"""Let V4-Nano work freely, through `dsv4 run`, on repositories with unseen names; judge what it leaves.

    python -m dsv4_model.nano.evaluate [--tasks 308] [--declines 100] [--model nano|PATH] [--out FILE]

Every task is one run of the command line program, in a process forked from one that has imported it and
loaded the model (so that 400 runs don't do so 400 times). Success is the state of the repository, the exit
code and, for questions, the facts in the answer; never the wording.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from dsv4_model.nano.data.families import FAMILIES, draw
from dsv4_model.nano.data.names import Split
from dsv4_model.nano.data.task import Outcome, Task
from dsv4_model.nano.data.workspace import interpreter_with_hints, materialised

DECLINE = "decline"
FIRST_SEED = 1_000_000
TIME_LIMIT = 120


@dataclass(frozen=True)
class Verdict:
    """How one run went."""

    family: str
    seed: int
    prompt: str
    success: bool
    exit_code: int
    answer: str
    turns: int
    seconds: float


def run_once(task: Task, seed: int, model: str) -> Verdict:
    """One `dsv4 run` in a forked process on a fresh repository."""
    started = time.monotonic()
    with materialised(task, seed) as (root, head), tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "result.json"
        arguments = [
            "run",
            "--model",
            model,
            "--temperature",
            "0",
            "--permission-mode",
            "auto",
            "--ephemeral",
        ]
        arguments += ["--max-time", f"{TIME_LIMIT}s", "--max-turns", "20", "--output-format", "json"]
        status = _forked([*arguments, "-C", str(root), "--", task.prompt], report)
        try:
            result = json.loads(report.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            result = {}
        answer = str(result.get("result") or "")
        outcome = Outcome(root, answer, status, head)
        try:
            success = status == 0 and task.check(outcome)
        except UnicodeDecodeError:
            success = False
        turns = int(result.get("num_turns", 0))
    return Verdict(
        task.family, seed, task.prompt, success, status, answer, turns, round(time.monotonic() - started, 2)
    )


def _forked(arguments: list[str], report: Path) -> int:
    """Exit code of the program run with `arguments`, its standard output in `report`."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            out = os.open(report, os.O_WRONLY | os.O_CREAT, 0o600)
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, 0)
            os.dup2(out, 1)
            os.dup2(nothing, 2)
            os.setsid()
            sys.argv = ["dsv4", *arguments]
            from dsv4_agent.cli.main import main as program

            program()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def selection(tasks: int, declines: int) -> Iterator[tuple[str, int]]:
    """`(family, seed)`: every family equally often, then the requests to decline."""
    families = [f for f in FAMILIES if f != DECLINE]
    for i in range(tasks):
        yield families[i % len(families)], FIRST_SEED + i
    for i in range(declines):
        yield DECLINE, FIRST_SEED + i


def evaluate(
    model: str, tasks: int, declines: int, jobs: int, only: str | None = None, out: Path | None = None
) -> list[Verdict]:
    """Run all; as they happen, each verdict goes to `out` as JSON and each failure to stderr."""

    def one(item: tuple[str, int]) -> Verdict:
        family, seed = item
        verdict = run_once(draw(seed, Split.HELD_OUT, family), seed, model)
        if out is not None:
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(verdict)) + "\n")
        if not verdict.success:
            print(
                f"failed: {family} {seed} exit {verdict.exit_code} "
                f"| {verdict.prompt!r} -> {verdict.answer!r}",
                file=sys.stderr,
                flush=True,
            )
        return verdict

    chosen = [item for item in selection(tasks, declines) if only in (None, item[0])]
    verdicts: list[Verdict] = []
    half = len(chosen) // 2
    # Half of the runs see an interpreter that prints spelling hints, half one that does not.
    for part, context in ((chosen[:half], nullcontext()), (chosen[half:], interpreter_with_hints())):
        with context, ThreadPoolExecutor(jobs) as pool:
            verdicts += pool.map(one, part)
    return verdicts


def table(verdicts: list[Verdict]) -> str:
    """A Markdown table: runs and successes by family, and in all."""
    groups: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        groups[verdict.family].append(verdict)
    rows = ["| family | runs | succeeded | share | median seconds |", "|---|---|---|---|---|"]

    def row(name: str, members: list[Verdict]) -> str:
        good = sum(v.success for v in members)
        seconds = sorted(v.seconds for v in members)[len(members) // 2]
        return f"| {name} | {len(members)} | {good} | {good / len(members):.1%} | {seconds:.1f} |"

    rows += [row(name, members) for name, members in groups.items()]
    if tasks := [v for v in verdicts if v.family != DECLINE]:
        rows.append(row("**all tasks**", tasks))
    return "\n".join(rows)


def main() -> None:
    """Command line of the evaluation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--tasks", type=int, default=308)
    parser.add_argument("--declines", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--family", choices=list(FAMILIES))
    parser.add_argument("--out", type=Path, help="JSON lines, one a run")
    options = parser.parse_args()
    _prepare(options.model)
    started = time.monotonic()
    verdicts = evaluate(
        options.model, options.tasks, options.declines, options.jobs, options.family, options.out
    )
    print(table(verdicts))
    print(f"\n{len(verdicts)} runs in {time.monotonic() - started:.0f} s")


def _prepare(model: str) -> None:
    """Load libraries and weights once, before the forks; one thread, so that forking is safe."""
    import torch

    import dsv4_agent.headless.task  # noqa: F401
    from dsv4_model.engine import NANO, Engine

    torch.set_num_threads(1)
    engine = Engine.load(model if model == NANO else Path(model))
    Engine.load = lambda *_, **__: engine  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
