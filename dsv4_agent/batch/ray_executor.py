"""Items done by the nodes of a Ray cluster: a repository goes there as a bundle, a patch comes back.

An item whose worker or node is lost begins anew on another. The coordinator writes the ledger as ever.
"""

from __future__ import annotations

import asyncio
import pickle
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Final

from dsv4_agent.batch.bundle import bundle_of, increment_of
from dsv4_agent.batch.carried_model import CarriedModel
from dsv4_agent.batch.executor import Assignment, ItemProgress
from dsv4_agent.batch.parcel import unpack
from dsv4_agent.batch.ray_cluster import REMEDY, Cluster, failed, lost
from dsv4_agent.batch.ray_node import Finished, Order
from dsv4_agent.batch.states import ItemResult, State
from dsv4_agent.loop.events import Subtype
from dsv4_agent.workbench.exit_codes import OwnSubtype
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.private_file import write_private

_JOIN_SECONDS: Final = 90.0
_LOSSES: Final = 3
"""After so many lost workers an item is given up."""
_ELSEWHERE: Final = "node"
"""The folder in an item's that holds what it was on its node; a local worker never takes it for its own."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """A bundle in Ray's object store."""

    key: str
    reference: Any


class RayExecutor:
    """Tasks of the cluster at `address`, or of one of this machine; `jobs` is how many are wanted at once.

    The model's key goes to the nodes as an argument of the tasks, and nowhere else.
    """

    def __init__(self, model: CarriedModel, address: str | None, jobs: int) -> None:
        self._model = model
        self._cluster = Cluster(address, jobs)
        self._batch = secrets.token_hex(8)
        self._lock = asyncio.Lock()
        self._opened = False
        self._sent: dict[Path, _Sent] = {}
        self._running: set[Any] = set()

    async def run(self, assignment: Assignment) -> AsyncIterator[ItemProgress | ItemResult]:
        """Do an item; one whose worker is lost begins again elsewhere."""
        sent = await self._bundle(assignment)
        id, said = assignment.item.id, ""
        for number in range(_LOSSES):
            order = await self._order(assignment, sent, number)
            stream = self._cluster.submit(order, sent.reference)
            self._running.add(stream)
            try:
                async for reference in stream:
                    report = _read(await reference, id)
                    if isinstance(report, ItemProgress):
                        yield report
                        continue
                    self._running.discard(stream)
                    yield await asyncio.to_thread(_placed, report, assignment.job.folder)
                    return
                said = "it ended without a result"
            except lost() as error:
                said = _words(error)
            except failed() as error:
                yield ItemResult(id, State.ERROR, f"its Ray task failed: {_words(error)}")
                return
            finally:
                self._end(stream)
            yield ItemProgress(id, f"its worker was lost ({said}); another begins anew")
        yield ItemResult(id, State.ERROR, f"its worker was lost {_LOSSES} times: {said}")

    async def close(self) -> None:
        for stream in list(self._running):
            self._end(stream)
        if self._opened:
            await asyncio.to_thread(self._cluster.close, self._batch)

    async def _bundle(self, assignment: Assignment) -> _Sent:
        """The repository in the object store, put there by the first item that needs it."""
        async with self._lock:
            if not self._opened:
                self._opened = True
                await self._open()
            place = assignment.checkouts.folder
            if place not in self._sent:
                bundle = await asyncio.to_thread(bundle_of, assignment.checkouts)
                reference = await asyncio.to_thread(self._cluster.share, bundle)
                self._sent[place] = _Sent(bundle.key, reference)
            return self._sent[place]

    async def _open(self) -> None:
        """Ray may never come back from a cluster that doesn't want us; then nobody waits for that thread."""
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = loop.create_future()

        def settle(error: BaseException | None) -> None:
            if opened.done():
                return
            if error is None:
                opened.set_result(None)
            else:
                opened.set_exception(error)

        def work() -> None:
            failure: BaseException | None = None
            try:
                self._cluster.open(self._model)
            except BaseException as error:
                failure = error
            with suppress(RuntimeError):  # the batch has ended meanwhile
                loop.call_soon_threadsafe(settle, failure)

        Thread(target=work, name="dsv4-ray", daemon=True).start()
        try:
            await asyncio.wait_for(opened, _JOIN_SECONDS)
        except TimeoutError:
            cause = f"the Ray cluster did not let us in within {_JOIN_SECONDS:g} s"
            raise RunFailure(Subtype.CONFIG, cause, REMEDY) from None

    async def _order(self, assignment: Assignment, sent: _Sent, number: int) -> Order:
        checkouts, commit = assignment.checkouts, assignment.commit
        later = commit != checkouts.base.commit
        return Order(
            batch=self._batch,
            name=f"{assignment.name}.{number}",
            item=assignment.item,
            job=assignment.job.model_copy(update={"model": self._model.choice}).to_line(),
            commit=commit,
            bundle=sent.key,
            increment=await asyncio.to_thread(increment_of, checkouts, commit) if later else None,
            model=self._model,
        )

    def _end(self, stream: Any) -> None:
        """Stop a task, if it runs."""
        if stream in self._running:
            self._running.discard(stream)
            self._cluster.cancel(stream)


def _read(report: tuple[str, Any], id: str) -> ItemProgress | Finished:
    """A task's report. Raises `RunFailure` (52) where the node doesn't suit."""
    match report:
        case ("unfit", text):
            raise RunFailure(Subtype.CONFIG, text, "Install the same versions on all nodes.")
        case ("node", host):
            return ItemProgress(id, f"on node {host}")
        case (_, data):
            read: ItemProgress | Finished = pickle.loads(data)
            return read


def _placed(finished: Finished, folder: Path) -> ItemResult:
    """The result, its patch and what else was in its folder on this machine. Raises `RunFailure` (54)."""
    result = finished.result
    unpack(finished.parcel, folder / _ELSEWHERE)
    if finished.patch is not None and result.patch is not None:
        try:
            write_private(folder / result.patch, finished.patch)
        except OSError as error:
            cause = f"{folder / result.patch} can't be written: {error.strerror}"
            raise RunFailure(OwnSubtype.TOOLS, cause, "Free space.") from error
    return result


def _words(error: Exception) -> str:
    """What Ray says, without its advice: the first line, or a task's last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    chosen = lines[-1] if "Traceback" in str(error) and lines else next(iter(lines), type(error).__name__)
    return chosen[:200]
