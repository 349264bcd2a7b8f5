"""Forty renames in a real package: done, wrong, items a minute, and prompt tokens computed.

    python -m bench.batch [--package jinja2] [--items 40] [--alone 10] [--retries 19] [--kills 20] [--out F]

Each rename must leave the package importable and its fast tests passing, the old name nowhere and the new one
somewhere. Beside the batch, `--alone` of the items that needed one attempt are done one by one by `dsv4 run`,
nothing shared. With `--kills` the batch is done once more while its processes are killed: the result must be
the same.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from bench.batch.kills import killed_batch, tree_of
from bench.batch.package import fetch
from bench.batch.renames import renames

DSV4 = (sys.executable, "-m", "dsv4_agent.cli.main")
PROMPT = "Replace every use of {old} by {new} in the code."
CHECKS = {
    "click": ("import click, click.testing, click.shell_completion", "tests/test_formatting.py"),
    "jinja2": ("import jinja2, jinja2.sandbox, jinja2.ext", "tests/test_lexnparse.py"),
}


def main() -> int:
    """Run, print a table, write the figures. The exit code is 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--package", default="jinja2", choices=sorted(CHECKS))
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--alone", type=int, default=10)
    parser.add_argument("--retries", type=int, default=19)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dsv4-bench-") as name:
        folder = Path(name)
        (folder / "package").mkdir()
        top, version = fetch(given.package, folder / "package")
        items = renames(top, given.items)
        (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
        (folder / "plan.toml").write_text(plan(given.package, given.jobs, given.retries))
        environment = {**os.environ, "DSV4_STATE_DIR": str(folder / "state"), "DSV4_NO_SERVER": "1"}
        began = monotonic()
        ended = batch(folder, top, environment)
        seconds = monotonic() - began
        wrong = misdone(top, items, ended)
        first = [i for i, r in enumerate(ended["items"]) if r["attempts"] == 1][: given.alone]
        alone = one_by_one(top, [items[index] for index in first], environment)
        shared = [ended["items"][index]["spent"] for index in first]
        killed = killed_again(top, folder, environment, ended, seconds, given.kills) if given.kills else {}
    figures = summary(version, ended, seconds, wrong, alone, shared) | killed
    for key, value in figures.items():
        print(f"{key:<34} {value:.2f}" if isinstance(value, float) else f"{key:<34} {value}")
    if given.out is not None:
        given.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    good = figures["done_share"] >= 0.95 and not wrong and figures["prefill_ratio"] >= 3
    return 0 if good and figures.get("same_after_kills", True) else 1


def plan(package: str, jobs: int, retries: int) -> str:
    """The plan file."""
    imports, tests = CHECKS[package]
    environment = "PYTHONPATH=src PYTHONDONTWRITEBYTECODE=1"
    verify = [
        "! grep -rnw {old} src tests",
        "grep -rqw {new} src",
        f"{environment} {sys.executable} -c '{imports}'",
        f"{environment} {sys.executable} -m pytest -q -p no:cacheprovider -p no:asyncio {tests}",
    ]
    keys = {
        "name": package,
        "prompt": PROMPT,
        "verify": verify,
        "jobs": jobs,
        "deliver": "commits",
        "conflicts": "redo",
        "retry": "fresh",
        "retries": retries,
        "model": "nano",
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join([*lines, 'items = { jsonl = "items.jsonl" }']) + "\n"


def batch(folder: Path, top: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """The batch's last record."""
    command = [*DSV4, "batch", str(folder / "plan.toml"), "--json"]
    done = subprocess.run(command, cwd=top, env=environment, stdout=subprocess.PIPE, check=False)
    last: dict[str, Any] = json.loads(done.stdout.decode().splitlines()[-1])
    if last["type"] != "batch.ended":
        raise SystemExit(f"the batch did not end: exit code {done.returncode}")
    return last


def killed_again(
    top: Path,
    folder: Path,
    environment: Mapping[str, str],
    ended: Mapping[str, Any],
    seconds: float,
    kills: int,
) -> dict[str, Any]:
    """The figures of the batch that is killed all the time, against the undisturbed one."""
    branch = "dsv4/killed"
    killed = killed_batch(DSV4, top, environment, folder / "plan.toml", branch, kills=kills, seconds=seconds)
    states = [[item["state"] for item in last["items"]] for last in (ended, killed.last)]
    same_tree = tree_of(top, branch) == tree_of(top, branch_of(ended))
    return {
        "kills_of_the_coordinator": killed.coordinator,
        "kills_of_workers": killed.workers,
        "same_after_kills": same_tree and states[0] == states[1],
    }


def branch_of(ended: Mapping[str, Any]) -> str:
    """The branch that a batch delivers to unless it is told another."""
    return f"dsv4/{ended['batch'].split('-')[2]}"


def misdone(top: Path, items: Sequence[Mapping[str, str]], ended: Mapping[str, Any]) -> list[str]:
    """Renames that count as done, but the delivered code has the old name still, or not the new one."""
    branch, wrong = branch_of(ended), []
    for item, result in zip(items, ended["items"], strict=True):
        if result["state"] == "done":
            kept, made = (grep(top, branch, item[which]) for which in ("old", "new"))
            if kept or not made:
                wrong.append(result["id"])
    return wrong


def grep(top: Path, branch: str, name: str) -> bool:
    """Whether a word stands in the sources of a branch."""
    command = ["git", "grep", "-qw", "-e", name, branch, "--", "src", "tests"]
    return subprocess.run(command, cwd=top, check=False).returncode == 0


def one_by_one(
    top: Path, items: Sequence[Mapping[str, str]], environment: Mapping[str, str]
) -> dict[str, float]:
    """The same tasks by separate runs that keep nothing: prompt tokens computed, and seconds, an item."""
    computed, began = 0, monotonic()
    for item in items:
        prompt = PROMPT.format(**item)
        command = [*DSV4, "run", prompt, "--model", "nano", "--output-format", "json", "--ephemeral"]
        done = subprocess.run(
            command,
            cwd=top,
            env={**environment, "DSV4_KV_CACHE_LIMIT": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        usage = json.loads(done.stdout)["usage"]
        computed += usage["input_tokens"] - usage["cached_input_tokens"]
        subprocess.run(["git", "checkout", "-q", "."], cwd=top, check=True)
    count = max(1, len(items))
    return {"computed": computed / count, "seconds": (monotonic() - began) / count}


def summary(
    version: str,
    ended: Mapping[str, Any],
    seconds: float,
    wrong: Sequence[str],
    alone: Mapping[str, float],
    shared: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The figures; prompt tokens are those of the same items, done at the first attempt, both ways."""
    results = ended["items"]
    attempts = sum(result["attempts"] for result in results)
    tokens = [spent["input_tokens"] - spent["cached_input_tokens"] for spent in shared]
    computed = sum(tokens) / max(1, len(tokens))
    states = Counter(result["state"] for result in results)
    return {
        "package": version,
        "items": len(results),
        "states": dict(states),
        "done_share": states["done"] / max(1, len(results)),
        "wrong": list(wrong),
        "attempts": attempts,
        "seconds": seconds,
        "items_per_minute": 60 * len(results) / seconds,
        "prompt_tokens_computed_in_the_batch": computed,
        "prompt_tokens_computed_alone": alone["computed"],
        "prefill_ratio": alone["computed"] / max(1.0, computed),
        "seconds_alone": alone["seconds"],
    }


if __name__ == "__main__":
    sys.exit(main())
