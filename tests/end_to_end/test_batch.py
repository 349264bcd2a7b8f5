"""`dsv4 batch` as a user types it: real processes, V4-Nano, kills, bad input."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.batch.shop import SHOP
from tests.end_to_end.conftest import Dsv4, git

PLAN = """
prompt = "Rename {old} to {new} everywhere."
items = { jsonl = "items.jsonl" }
verify = ["python3 use.py", "! grep -rnw {old} --include=*.py ."]
jobs = 2
deliver = "commits"
"""
RENAMES = (("total_price", "final_cost"), ("apply_tax", "add_tax"), ("total_price", "whole_sum"))


@pytest.fixture
def shop(dsv4: Dsv4) -> Dsv4:
    """A repository of its own, a plan next to it."""
    for name in ("a.py", "b.py"):
        (dsv4.repository / name).unlink()
    for name, text in SHOP.items():
        (dsv4.repository / name).write_text(text)
    git(dsv4.repository, "add", "-A")
    git(dsv4.repository, "commit", "-qm", "shop")
    write_plan(dsv4, PLAN)
    return dsv4


def write_plan(dsv4: Dsv4, text: str, renames: Any = RENAMES) -> Path:
    rows = [json.dumps({"old": old, "new": new}) for old, new in renames]
    (dsv4.home / "items.jsonl").write_text("\n".join(rows) + "\n")
    path = dsv4.home / "plan.toml"
    path.write_text(text)
    return path


def batch(dsv4: Dsv4, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return dsv4("batch", *arguments)


def states(done: subprocess.CompletedProcess[bytes]) -> dict[str, str]:
    last = json.loads(done.stdout.decode().splitlines()[-1])
    assert last["type"] == "batch.ended"
    return {item["id"]: item["state"] for item in last["items"]}


def test_renames_by_the_built_in_model(shop: Dsv4) -> None:
    report = shop.home / "report.xml"
    done = batch(shop, str(shop.home / "plan.toml"), "--json", "--report", f"junit={report}")
    assert done.returncode == 59, done.stderr.decode()
    assert states(done) == {
        "total_price-final_cost": "done",
        "apply_tax-add_tax": "done",
        "total_price-whole_sum": "conflict",
    }
    assert git(shop.repository, "show", "dsv4/batch:use.py").startswith("from shop import final_cost\n")
    assert git(shop.repository, "status", "--porcelain") == ""
    assert git(shop.repository, "rev-list", "--count", "main..dsv4/batch") == "2"
    [run] = (shop.state / "batches").iterdir()
    assert sorted(path.name for path in (run / "patches").iterdir()) == [
        "0001-total_price-final_cost.patch",
        "0002-apply_tax-add_tax.patch",
        "0003-total_price-whole_sum.conflict.patch",
    ]
    assert report.read_bytes().startswith(b"<?xml")
    assert not (run / "repositories").exists()


def test_flags_in_place_of_a_plan(shop: Dsv4) -> None:
    done = batch(shop, "Rename apply_tax to add_tax everywhere in {path}.", "--each", "*.py", "--dry-run")
    assert done.returncode == 0
    assert b"items: 4" in done.stdout
    assert b"everywhere in name.py." in done.stdout
    assert not (shop.state / "batches").exists()


@pytest.mark.parametrize(
    ("plan", "code", "words"),
    [
        (PLAN + 'colour = "red"', 42, "unknown key colour"),
        (PLAN.replace('{ jsonl = "items.jsonl" }', '{ glob = "*.rs" }'), 42, "matches no file"),
        (PLAN.replace("{new} everywhere", "{newer} everywhere"), 42, "no {newer}"),
        (PLAN.replace("items.jsonl", "none.jsonl"), 42, "can't be read"),
        (PLAN + 'branch = "taken"', 42, "branch taken exists already"),
        (PLAN + 'branch = "a..b"', 42, "no valid name"),
        (PLAN + 'base = "nowhere"', 42, "is no commit"),
        (PLAN + "require_clean = true", 58, "uncommitted changes"),
        (PLAN.replace('{ jsonl = "items.jsonl" }', '{ command = "exit 3" }'), 42, "items.command exited 3"),
        (PLAN + 'allowed_tools = ["("]', 42, "allowed_tools"),
        (PLAN + 'model = "/no/such/model"', 52, "checkpoint folder"),
    ],
)
def test_bad_input_changes_nothing(shop: Dsv4, plan: str, code: int, words: str) -> None:
    git(shop.repository, "branch", "taken")
    (shop.repository / "use.py").write_text("# dirty\n" + SHOP["use.py"])
    before = git(shop.repository, "for-each-ref") + git(shop.repository, "status", "--porcelain")
    done = batch(shop, str(write_plan(shop, plan)))
    lines = done.stderr.decode().splitlines()
    assert (done.returncode, len([line for line in lines if line.startswith("dsv4: error: ")])) == (code, 1)
    assert words in lines[-1], lines
    assert git(shop.repository, "for-each-ref") + git(shop.repository, "status", "--porcelain") == before


def test_places_that_are_no_repository(shop: Dsv4, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    plan = str(shop.home / "plan.toml")
    done = batch(shop, plan, "-C", str(empty))
    assert (done.returncode, b"not a git repository" in done.stderr) == (42, True)
    git(empty, "init", "-q")
    done = batch(shop, plan, "-C", str(empty))
    assert (done.returncode, b"has no commits" in done.stderr) == (42, True)


def test_check_and_schema(shop: Dsv4) -> None:
    done = batch(shop, "check", str(shop.home / "plan.toml"))
    assert (done.returncode, done.stdout.decode()) == (0, f"{shop.home / 'plan.toml'} is good: 3 items\n")
    assert json.loads(batch(shop, "schema").stdout)["title"] == "dsv4 batch plan"


def test_an_interrupted_batch_says_how_to_go_on(shop: Dsv4) -> None:
    process = shop.start("batch", str(shop.home / "plan.toml"), "--json")
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["type"] == "item.progress":
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"dsv4 batch --resume" in errors
    done = batch(shop, "--resume", "--json")
    assert done.returncode == 59
    assert sorted(states(done).values()) == ["conflict", "done", "done"]


@pytest.mark.slow
def test_killed_at_random_moments_it_comes_to_the_same(shop: Dsv4) -> None:
    plan = str(shop.home / "plan.toml")
    began = time.monotonic()
    whole = batch(shop, plan, "--json", "--branch", "whole")
    length = time.monotonic() - began
    want, tree = states(whole), git(shop.repository, "rev-parse", "whole^{tree}")
    chance = random.Random(6)

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        with log.open("ab") as file:
            return shop.start("batch", "run", *arguments, "-v", stdout=subprocess.DEVNULL, stderr=file)

    for number in range(20):
        branch = f"part{number}"
        log = shop.home / f"{branch}.log"
        process = start("--branch", branch, plan)
        kills = 0
        for _ in range(1 + number % 3):
            time.sleep(chance.uniform(0.2, length))
            if process.poll() is not None:
                break
            victims = workers_of(process.pid)
            if number % 4 == 1 and victims:  # a worker dies, the coordinator goes on
                os.kill(chance.choice(victims), signal.SIGKILL)
                kills += 1
                continue
            process.kill()
            process.wait()
            kills += 1
            process = start("--resume")
        process.communicate(timeout=120)
        if git(shop.repository, "branch", "--list", branch) == "":  # killed before its first record
            assert kills, log.read_text()
            continue
        assert git(shop.repository, "rev-parse", f"{branch}^{{tree}}") == tree, log.read_text()
        runs = sorted((shop.state / "batches").iterdir())
        assert final(runs[-1]) == want, log.read_text()
    assert not list(shop.state.glob("batches/*/repositories"))


def workers_of(pid: int) -> list[int]:
    """The worker processes of a coordinator."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            line = (path.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if fields[1] == str(pid) and b"dsv4_agent.batch.worker" in line:
            found.append(int(path.parent.name))
    return found


def final(run: Path) -> dict[str, str]:
    ends: dict[str, str] = {}
    for line in (run / "ledger.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["kind"] in ("item.ended", "item.integrated"):
            ends[record["data"]["id"]] = record["data"]["state"]
    return ends
