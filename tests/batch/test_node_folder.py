"""What a lost worker leaves on a node goes away; what a living one has stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dsv4_agent.batch.bundle import bundle_of
from dsv4_agent.batch.checkouts import Checkouts
from dsv4_agent.batch.node_folder import NodeFolder, remove_everywhere

HOLDER = """
import os, subprocess, sys
from dsv4_agent.batch.node_folder import NodeFolder
with NodeFolder("node", "batch").item("00000.0") as folder:
    worktree = folder.parents[1] / "repositories/key/checkouts/worktrees/00000.0"
    worktree.mkdir(parents=True)
    apart = {"start_new_session": True, "stdout": subprocess.DEVNULL}
    stray = subprocess.Popen(["sleep", "999"], cwd=worktree, **apart)
    print(stray.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeFolder:
    monkeypatch.setenv("DSV4_STATE_DIR", str(tmp_path / "state"))
    return NodeFolder("node", "batch")


def left(place: NodeFolder) -> list[str]:
    return [path.name for path in place.path.glob("items/*")]


def test_the_dead_are_cleared_and_the_living_are_not(place: NodeFolder) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    stray = int(process.stdout.readline())
    with place.item("00001.0"):
        assert sorted(left(place)) == ["00000.0", "00001.0"]
    os.kill(stray, 0)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with place.item("00000.1"):
        assert left(place) == ["00000.1"]
    assert not is_alive(stray)
    assert list(place.path.glob("*.lock")) == []


def test_a_repository_is_fetched_once(place: NodeFolder, checkouts: Checkouts) -> None:
    bundle = bundle_of(checkouts)
    fetched = []

    def fetch() -> object:
        fetched.append(1)
        return bundle

    for _ in range(2):
        made = place.checkouts(bundle.key, fetch, bundle.commit, None)  # type: ignore[arg-type]
    assert fetched == [1]
    assert (made.worktree("x") / "b.py").is_file()


def test_a_forgotten_batch_goes_and_a_fresh_one_stays(place: NodeFolder) -> None:
    for name, age in (("old", 8), ("young", 1)):
        with NodeFolder("other", name).item("00000.0"):
            pass
        path = NodeFolder("other", name).path
        then = path.stat().st_mtime - age * 86_400
        os.utime(path, (then, then))
    with place.item("00000.0"):
        pass
    assert not NodeFolder("other", "old").path.exists()
    assert NodeFolder("other", "young").path.exists()
    remove_everywhere("young")
    assert not NodeFolder("other", "young").path.parent.exists()


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be buried doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
