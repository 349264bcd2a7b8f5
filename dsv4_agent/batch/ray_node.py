"""What a Ray task does on its node: the repository from the bundle, then the item as it is done locally."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from dsv4_agent.batch.bundle import Bundle
from dsv4_agent.batch.carried_model import CarriedModel
from dsv4_agent.batch.executor import Assignment, ItemProgress
from dsv4_agent.batch.items import Item
from dsv4_agent.batch.job import Job, ModelChoice
from dsv4_agent.batch.local import LocalExecutor
from dsv4_agent.batch.node_folder import NodeFolder
from dsv4_agent.batch.parcel import packed
from dsv4_agent.batch.states import ItemResult, State
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.processes import hide_memory

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Order:
    """A try at an item. `job` is `Job.to_line` with paths of the coordinator's machine; `name` is unique.

    `bundle` is the bundle's key, `increment` what makes `commit` of its commit.
    """

    batch: str
    name: str
    item: Item
    job: bytes
    commit: str
    bundle: str
    increment: bytes | None = field(repr=False)
    model: CarriedModel


@dataclass(frozen=True, slots=True)
class Finished:
    """The last report of an order. `patch` are the bytes of the result's patch, `parcel` its folder."""

    result: ItemResult
    patch: bytes | None = field(repr=False)
    parcel: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Carried:
    """The model as `LocalExecutor` wants it."""

    choice: ModelChoice
    environment: Mapping[str, str] = field(repr=False)

    async def start(self) -> None:
        return

    async def close(self) -> None:
        return


def work(order: Order, node: str, fetch: Callable[[], Bundle]) -> Iterator[ItemProgress | Finished]:
    """Do an item here; `fetch` gets the bundle."""
    hide_memory()
    for name in order.model.secrets:
        os.environ.pop(name, None)
    place = NodeFolder(node, order.batch)
    with place.item(order.name) as folder, _model(order.model, folder) as model:
        output = folder / "item"
        last = ItemResult(order.item.id, State.ERROR, "its worker ended without a result")
        try:
            checkouts = place.checkouts(order.bundle, fetch, order.commit, order.increment)
            job = Job.from_line(order.job).model_copy(
                update={
                    "folder": output,
                    "worktree": checkouts.path(order.name),
                    "git": checkouts.git_folder(order.name),
                    "objects": checkouts.base.object_folders(),
                }
            )
            output.mkdir(mode=0o700)
            assignment = Assignment(order.item, job, checkouts, order.name, order.commit)
            for report in _here(LocalExecutor(model), assignment):
                if isinstance(report, ItemProgress):
                    yield report
                else:
                    last = report
        except (RunFailure, OSError) as failure:
            last = replace(last, reason=" ".join(f"on {os.uname().nodename}: {failure}".split()))
        yield from _finished(last, output)


@contextmanager
def _model(model: CarriedModel, folder: Path) -> Iterator[_Carried]:
    """The model's configuration where only this try finds it."""
    place = folder / "config"
    place.mkdir(mode=0o700)
    try:
        yield _Carried(model.choice, model.unpack(place))
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _finished(result: ItemResult, folder: Path) -> Iterator[ItemProgress | Finished]:
    patch = None if result.patch is None else (folder / result.patch).read_bytes()
    parcel, left_out = packed(folder)
    if left_out:
        yield ItemProgress(result.id, f"{left_out} files of its folder were too large to be brought back")
    yield Finished(result, patch, parcel)


def _here(executor: LocalExecutor, assignment: Assignment) -> Iterator[ItemProgress | ItemResult]:
    """The executor's reports, each as it comes, in a process that has no event loop."""
    with asyncio.Runner() as runner:
        try:
            reports = executor.run(assignment)
            while (report := runner.run(_next(reports))) is not None:
                yield report
        finally:
            runner.run(executor.close())


async def _next(reports: AsyncIterator[T]) -> T | None:
    return await anext(reports, None)
