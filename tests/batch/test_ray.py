"""Batches on a real Ray cluster of two nodes of this machine, with V4-Nano behind `dsv4 serve`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dsv4_agent.batch import ray_cluster
from dsv4_agent.batch.carried_model import CarriedModel
from dsv4_agent.batch.events import BatchEnded, BatchEvent
from dsv4_agent.batch.executor import Executor, ItemProgress
from dsv4_agent.batch.job import ModelChoice
from dsv4_agent.batch.local import LocalExecutor
from dsv4_agent.batch.model_host import ModelHost
from dsv4_agent.batch.one_batch import Begun, begin, events_of
from dsv4_agent.batch.plan import parse_plan
from dsv4_agent.batch.preparation import prepare
from dsv4_agent.batch.ray_executor import RayExecutor
from dsv4_agent.workbench.exit_codes import ExitCode
from dsv4_agent.workbench.failures import RunFailure
from tests.batch.conftest import git
from tests.batch.shop import SHOP

pytest.importorskip("ray", reason="needs the ray extra: make ray")
pytestmark = pytest.mark.slow

SERVER = ModelChoice(name="server")
ITEMS = (
    ("total_price", "final_cost"),
    ("apply_tax", "add_tax"),
    ("unit_name", "label"),
    ("apply_tax", "more_tax"),
)


@dataclass
class Place:
    """A repository, a cluster, and a folder in which the first verify of an item waits to be shot."""

    repository: Path
    waiting: Path
    cluster: Any
    said: list[str] = field(default_factory=list)

    def begun(self, branch: str, *, waits: str = "") -> Begun:
        """A batch of renames; the first verify of the item that renames to `waits` never ends."""
        rows = [json.dumps({"old": old, "new": new}) for old, new in ITEMS]
        (self.repository.parent / "items.jsonl").write_text("\n".join(rows) + "\n")
        mark = self.waiting / "mark"
        wait = f"echo $$ > {mark}/pid; pwd > {mark}/new; mv {mark}/new {mark}/cwd; sleep 999"
        stop = f'if [ {{new}} = "{waits}" ] && mkdir {mark}; then {wait}; fi'
        data = {
            "prompt": "Rename {old} to {new} everywhere.",
            "items": {"jsonl": "items.jsonl"},
            "verify": [stop, "python3 use.py", "! grep -rnw {old} --include=*.py ."],
            "jobs": 2,
            "deliver": "commits",
            "conflicts": "redo",
            "branch": branch,
            "sandbox": "off",
        }
        return begin(prepare(parse_plan(data, "plan"), self.repository, self.repository.parent).charter)

    def ray(self) -> RayExecutor:
        return RayExecutor(CarriedModel.of(SERVER), self.cluster.address, 2)

    async def done(
        self, batch: Begun, executor: Executor, at_wait: Callable[[], None] | None = None
    ) -> BatchEnded:
        """The batch's end; `at_wait` is called once, when a verify waits."""
        last: BatchEvent | None = None
        async with aclosing(events_of(batch, executor, SERVER, 0)) as events:
            async for event in events:
                if isinstance(event, ItemProgress):
                    self.said.append(event.text)
                    if event.text == "verify" and at_wait is not None and await self._is_waiting():
                        at_wait, call = None, at_wait
                        call()
                last = event
        assert isinstance(last, BatchEnded)
        return last

    async def _is_waiting(self) -> bool:
        """Whether the verify that was just announced is the one that waits."""
        for _ in range(40):
            if (self.waiting / "mark" / "cwd").is_file():
                return True
            await asyncio.sleep(0.05)
        return False

    def tree(self, branch: str) -> str:
        return git(self.repository, "rev-parse", f"{branch}^{{tree}}")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A head without processors and two nodes with one each, whose environment knows of no server."""
    import ray
    from ray.cluster_utils import Cluster

    repository, waiting = tmp_path / "repository", tmp_path / "waiting"
    repository.mkdir()
    waiting.mkdir()
    git(repository, "init", "-q", "-b", "main")
    for name, text in SHOP.items():
        (repository / name).write_text(text)
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "shop")
    monkeypatch.setenv("DSV4_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("DSV4_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    for name in [name for name in os.environ if name.startswith("DSV4_SERVER_")]:
        monkeypatch.delenv(name)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield Place(repository, waiting, cluster)
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
async def server(place: Place, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """V4-Nano behind a server, known to this process alone; its key."""
    host = ModelHost(ModelChoice(name="nano"), 2)
    await host.start()
    try:
        for name, value in host.environment.items():
            monkeypatch.setenv(name, value)
        yield host.environment["DSV4_API_KEY"]
    finally:
        await host.close()


@pytest.mark.parametrize("victim", ["worker", "node"])
async def test_what_is_lost_is_done_elsewhere_and_the_result_is_the_local_one(
    place: Place, server: str, victim: str
) -> None:
    want = await place.done(place.begun("local"), LocalExecutor())
    batch = place.begun("remote", waits="add_tax")
    got = await place.done(batch, place.ray(), lambda: shoot(place, victim))

    assert any(text.startswith("its worker was lost") for text in place.said)
    assert outcomes(got) == outcomes(want)
    assert place.tree("remote") == place.tree("local") != git(place.repository, "rev-parse", "main^{tree}")
    [journal] = batch.run.path.glob("items/00000/node/sessions/*/journal.jsonl")
    assert "final_cost" in journal.read_text()
    assert list((batch.run.path.parent.parent / "nodes").iterdir()) == []
    assert not works_in(place.waiting.parent / "state")
    assert found(server.encode(), batch.run.path, Path(place.cluster.head_node.get_session_dir_path())) == []


async def test_stopping_ends_the_tasks(place: Place, server: str) -> None:
    class Stop(Exception):
        pass

    def stop() -> None:
        raise Stop

    with pytest.raises(Stop):
        await place.done(place.begun("stopped", waits="final_cost"), place.ray(), stop)
    assert not works_in(place.waiting.parent / "state")
    assert list((place.waiting.parent / "state" / "nodes").iterdir()) == []


async def test_a_node_of_another_version_ends_the_batch(
    place: Place, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "VERSIONS", ("0.0.0", ray_cluster.VERSIONS[1]))
    with pytest.raises(RunFailure, match=r"has dsv4 .* and Python .*, and here are dsv4 0\.0\.0") as failure:
        await place.done(place.begun("other"), place.ray())
    assert failure.value.code is ExitCode.CONFIG


def outcomes(ended: BatchEnded) -> list[tuple[str, str, str | None]]:
    return [(result.id, result.state, result.sha256) for result in ended.results]


def shoot(place: Place, victim: str) -> None:
    """Kill the Ray worker of the waiting verify, or its node."""
    mark = place.waiting / "mark"
    if victim == "worker":
        os.kill(ray_worker_above(int((mark / "pid").read_text())), signal.SIGKILL)
        return
    [node] = [n for n in place.cluster.worker_nodes if f"/{n.node_id[:16]}/" in (mark / "cwd").read_text()]
    place.cluster.remove_node(node, allow_graceful=False)


def ray_worker_above(pid: int) -> int:
    while not Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::"):
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        assert pid > 1
    return pid


def works_in(folder: Path) -> list[int]:
    """Processes whose working directory is, or was, in a folder."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if str(path.readlink()).startswith(str(folder)):
                pids.append(int(path.parent.name))
        except OSError:
            continue
    return pids


def found(secret: bytes, *folders: Path) -> list[Path]:
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return [path for path in files if secret in path.read_bytes()]
