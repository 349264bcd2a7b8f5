"""The batch itself: items are done side by side, then integrated in order, then handed over.

Every step is on the ledger before the next begins, so that a batch killed at any moment goes on where it was.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TypeVar

from dsv4_agent.batch.checkouts import Checkouts
from dsv4_agent.batch.choices import Conflicts, Delivery
from dsv4_agent.batch.commands import Commands
from dsv4_agent.batch.delivery import copy_patches, deliver_branches
from dsv4_agent.batch.events import (
    BatchEnded,
    BatchEvent,
    BatchStarted,
    Delivered,
    ItemEnded,
    ItemIntegrated,
    ItemStarted,
)
from dsv4_agent.batch.executor import Assignment, Executor, ItemProgress
from dsv4_agent.batch.integration import WORKTREE, Integrated, Integration, read_patch
from dsv4_agent.batch.items import Item
from dsv4_agent.batch.job import Job, ModelChoice
from dsv4_agent.batch.ledger import Ledger, final_states
from dsv4_agent.batch.naming import message_of, with_trailers
from dsv4_agent.batch.runs import RunFolder, item_name
from dsv4_agent.batch.states import ItemResult, State
from dsv4_agent.batch.trees import Trees
from dsv4_agent.workbench.exit_codes import OwnSubtype
from dsv4_agent.workbench.failures import RunFailure
from dsv4_tools.sandbox.base import Sandbox

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a coordinator works with besides the ledger. `allowed_failures` keeps the exit code 0."""

    executor: Executor
    model: ModelChoice
    sandbox: Sandbox
    allowed_failures: int = 0


class Coordinator:
    """Runs one batch to its end. Call `run` once."""

    def __init__(self, run: RunFolder, ledger: Ledger, outlook: Outlook) -> None:
        self._run = run
        self._ledger = ledger
        self._outlook = outlook
        self._plan = ledger.charter.plan
        self._items = {item.id: item for item in ledger.charter.items}
        self._checkouts = {
            base.repository: Checkouts(base, run.repository(number))
            for number, base in enumerate(ledger.charter.bases.values())
        }
        self._objects = {top: base.object_folders() for top, base in ledger.charter.bases.items()}
        self._began = monotonic()

    async def run(self) -> AsyncGenerator[BatchEvent, None]:
        """Do what remains to be done. Raises `RunFailure`, `JournalError`; then `--resume` goes on."""
        items = self._ledger.charter.items
        finished = self._ledger.progress.results
        yield BatchStarted(self._run.id, len(items), len(finished), self._plan.jobs)
        for checkouts in self._checkouts.values():
            await asyncio.to_thread(self._prepare, checkouts)
        waiting = [item for item in items if item.id not in finished]
        async with aclosing(self._work(waiting)) as events:
            async for event in events:
                yield event
        async with aclosing(self._integrate()) as events:
            async for event in events:
                yield event
        results = final_states(items, self._ledger.progress)
        folder = await asyncio.to_thread(copy_patches, self._run, self._items, results)
        yield Delivered("patches", str(folder))
        async with aclosing(self._deliver(results)) as events:
            async for event in events:
                yield event
        failures = sum(not result.state.succeeded for result in results.values())
        failed = failures > self._outlook.allowed_failures
        self._ledger.end(int(failed))
        for checkouts in self._checkouts.values():
            await asyncio.to_thread(checkouts.close)
        await asyncio.to_thread(shutil.rmtree, self._run.path / "repositories", True)
        yield BatchEnded(
            self._run.id,
            tuple(results.values()),
            self._ledger.progress.spent,
            monotonic() - self._began,
            failed,
        )

    def _prepare(self, checkouts: Checkouts) -> None:
        """Make the checkouts; where they were cleaned away, what depends on them counts no more."""
        if not checkouts.is_ready():
            own = [i for i in self._items.values() if i.repository == checkouts.base.repository]
            for item in own:
                if item.id not in self._ledger.progress.results:
                    shutil.rmtree(self._run.item(item.index), ignore_errors=True)
            if any(item.id in self._ledger.progress.integrated for item in own):
                self._ledger.integration_lost([item.id for item in own])
        checkouts.prepare()

    async def _work(self, items: list[Item]) -> AsyncGenerator[BatchEvent, None]:
        """Do items side by side, at most `jobs` at once."""
        events: asyncio.Queue[BatchEvent | None] = asyncio.Queue()
        queue = iter(items)

        async def worker() -> None:
            for item in queue:
                if reason := self._exhausted():
                    result = ItemResult(item.id, State.SKIPPED, reason)
                    self._ledger.ended(result)
                    events.put_nowait(ItemEnded(result))
                    continue
                async for event in self._do(item, self._assignment(item)):
                    events.put_nowait(event)

        async def everyone() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self._plan.jobs, len(items))):
                        group.create_task(worker())
            finally:
                events.put_nowait(None)

        running = asyncio.create_task(everyone())
        try:
            while (event := await events.get()) is not None:
                yield event
            await _unwrapped(running)
        finally:
            running.cancel()
            await asyncio.wait({running})

    async def _do(self, item: Item, assignment: Assignment) -> AsyncIterator[BatchEvent]:
        self._ledger.started(item)
        yield ItemStarted(item.id, assignment.resumes)
        async with aclosing(_closable(self._outlook.executor.run(assignment))) as reports:
            async for report in reports:
                if isinstance(report, ItemProgress):
                    yield report
                    continue
                result = _placed(report, assignment.job.folder, self._run)
                self._ledger.ended(result)
                yield ItemEnded(result)
        await asyncio.to_thread(assignment.checkouts.remove, assignment.name)

    def _assignment(self, item: Item, commit: str | None = None) -> Assignment:
        """An item's work; on another commit than the base it is done in a folder of its own."""
        checkouts = self._checkouts[item.repository]
        name = item_name(item.index) if commit is None else f"{item_name(item.index)}-redo"
        folder = self._run.item(item.index) if commit is None else self._run.item(item.index) / "redo"
        resumes = folder.exists()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        job = Job.of(
            self._plan,
            item,
            self._outlook.model,
            folder=folder,
            worktree=checkouts.path(name),
            git=checkouts.git_folder(name),
            objects=self._objects[item.repository],
        )
        return Assignment(item, job, checkouts, name, commit or checkouts.base.commit, resumes)

    def _exhausted(self) -> str | None:
        """Why no further item may begin."""
        total = self._plan.total
        if total.max_tokens is not None and self._ledger.progress.spent.output_tokens >= total.max_tokens:
            return f"the batch's budget of {total.max_tokens:,} tokens is spent"
        if total.max_time is not None and monotonic() - self._began >= total.max_time:
            return f"the batch's time of {total.max_time:g} s is over"
        return None

    async def _integrate(self) -> AsyncGenerator[BatchEvent, None]:
        for repository, checkouts in self._checkouts.items():
            items = [item for item in self._ledger.charter.items if item.repository == repository]
            if not any(self._is_due(item) for item in items):
                continue
            integration = await self._integration(checkouts, items)
            for item in items:
                outcome = await self._take(integration, item)
                if outcome is not None:
                    yield ItemIntegrated(outcome)
                if outcome is None or outcome.state is not State.CONFLICT:
                    continue
                if self._plan.conflicts is Conflicts.REDO and not self._exhausted():
                    async with aclosing(self._redo(integration, item)) as events:
                        async for event in events:
                            yield event

    async def _take(self, integration: Integration, item: Item) -> Integrated | None:
        """Integrate an item if that is due."""
        if not self._is_due(item):
            return None
        result = self._ledger.progress.results[item.id]
        message = with_trailers(message_of(self._plan, item), self._plan, self._run.id, item, result.session)
        patch = read_patch(self._run.path, result)
        verify = self._assignment(item).job.verify
        outcome = await integration.take(result, patch, message, verify, self._plan.verify_timeout)
        self._ledger.integrated(outcome)
        return outcome

    def _is_due(self, item: Item) -> bool:
        """Whether an item is verified and has not been integrated."""
        result = self._ledger.progress.results.get(item.id)
        return (
            result is not None
            and result.state is State.DONE
            and item.id not in self._ledger.progress.integrated
        )

    async def _redo(self, integration: Integration, item: Item) -> AsyncGenerator[BatchEvent, None]:
        """Do an item again on what is integrated by now."""
        self._ledger.redone(item.id)
        async with aclosing(_closable(self._do(item, self._assignment(item, integration.head)))) as events:
            async for event in events:
                yield event
        outcome = await self._take(integration, item)
        if outcome is not None:
            yield ItemIntegrated(outcome)

    async def _integration(self, checkouts: Checkouts, items: list[Item]) -> Integration:
        """The worktree of integration, at the last commit on record and set up as the items' are."""
        head = checkouts.base.commit
        for item in items:
            known = self._ledger.progress.integrated.get(item.id)
            head = (known.commit if known is not None else None) or head
        path = await asyncio.to_thread(checkouts.worktree, WORKTREE, head)
        trees = Trees(path, checkouts.git_folder(WORKTREE), checkouts.folder / "integration.index")
        commands = Commands(path, self._run.path / "integration", self._outlook.sandbox)
        job = self._assignment(items[0]).job
        outcome = await commands.run(job.setup, job.setup_timeout)
        if not outcome.ok:
            cause = f"setup failed where the items are integrated: {outcome.reason()}"
            raise RunFailure(OwnSubtype.TOOLS, cause, "Mend it and go on with --resume.")
        return Integration(checkouts, commands, trees, head)

    async def _deliver(self, results: Mapping[str, ItemResult]) -> AsyncGenerator[BatchEvent, None]:
        if self._plan.deliver is Delivery.PATCHES:
            return
        for repository, checkouts in self._checkouts.items():
            items = [item for item in self._ledger.charter.items if item.repository == repository]
            commits = [self._ledger.progress.integrated.get(item.id) for item in items]
            heads = [outcome.commit for outcome in commits if outcome is not None and outcome.commit]
            head = heads[-1] if heads else checkouts.base.commit
            handed = deliver_branches(self._run, self._ledger, checkouts, items, results, head)
            branches = await asyncio.to_thread(list, handed)
            for branch in branches:
                yield Delivered("branch", branch)


def _placed(result: ItemResult, folder: Path, run: RunFolder) -> ItemResult:
    """The result with its patch named from the batch's folder."""
    if result.patch is None:
        return result
    return replace(result, patch=str((folder / result.patch).relative_to(run.path)))


async def _unwrapped(task: asyncio.Task[None]) -> None:
    """Wait for a task group's task; what one of its members raised comes out as it was."""
    try:
        await task
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


async def _closable(events: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    async for event in events:
        yield event
