"""One item from its fresh worktree to a verified patch: setup, agent, check, and again with what it said."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

from dsv4_agent.backends.base import Backend
from dsv4_agent.batch.choices import Retry
from dsv4_agent.batch.commands import Commands
from dsv4_agent.batch.item_journal import Attempt, Check, ItemJournal
from dsv4_agent.batch.job import Job
from dsv4_agent.batch.paths import Paths
from dsv4_agent.batch.states import ItemResult, Spent, State
from dsv4_agent.batch.trees import Difference, Trees
from dsv4_agent.loop.agent import Agent
from dsv4_agent.loop.assemble import make_agent
from dsv4_agent.loop.events import Event, ItemStarted, RunResult, Subtype, TurnStarted
from dsv4_agent.loop.guards import Limits
from dsv4_agent.loop.preset import Preset
from dsv4_agent.permissions.decision import Policy, SandboxMode
from dsv4_agent.permissions.rules import parse_rules
from dsv4_agent.session.session import JOURNAL_NAME, Session
from dsv4_agent.workbench.private_file import write_private
from dsv4_tools.sandbox.base import Sandbox
from dsv4_tools.sandbox.select import choose

_PATCH = "change.patch"
_OUT_OF_BUDGET = frozenset({Subtype.MAX_TURNS, Subtype.MAX_TOKENS, Subtype.MAX_TIME, Subtype.MAX_TOOL_CALLS})
_UNLUCKY = frozenset({Subtype.LOOP, *_OUT_OF_BUDGET})
_LUCK = (0.5, 0.8, 1.1)
"""Temperatures at which a model begins anew, in turn: where it is set in its ways, more chance is needed."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Worktree:
    """States of the item's worktree, for the agent's calls."""

    trees: Trees

    async def take(self) -> str:
        return await asyncio.to_thread(self.trees.take)

    async def restore(self, state: str) -> None:
        await asyncio.to_thread(self.trees.restore, state)


class Procedure:
    """Does one job. `say` gets a line now and then about what is going on."""

    def __init__(self, job: Job, backend: Backend, preset: Preset, say: Say) -> None:
        self._job = job
        self._backend = backend
        self._preset = preset
        self._say = say
        self._trees = Trees(job.worktree, job.git, job.folder / "index")
        explicit = job.sandbox is SandboxMode.WORKSPACE_WRITE
        mode = job.sandbox or SandboxMode.WORKSPACE_WRITE
        self._sandbox: Sandbox = choose(mode.value, explicit, workspace=job.worktree, readable=job.objects)
        self._commands = Commands(job.worktree, job.folder / "output", self._sandbox)
        self._journal = ItemJournal.open(job.folder)

    async def run(self) -> ItemResult:
        """The item's result, its patch written. Raises `RunFailure`, `JournalError`, `SandboxUnavailable`."""
        try:
            problem = await self._prepare()
            if problem is not None:
                return problem
            while self._is_open():
                await self._attempt()
            return await asyncio.to_thread(self._result)
        finally:
            self._journal.close()

    async def _prepare(self) -> ItemResult | None:
        """Run setup in the clean worktree; what is wrong with it, or None."""
        job = self._job
        if self._journal.prepared is not None:
            return None
        await asyncio.to_thread(self._trees.restore, "HEAD")
        if job.setup:
            self._say("setup")
        outcome = await self._commands.run(job.setup, job.setup_timeout)
        if not outcome.ok:
            reason = f"setup: {outcome.reason()}"
            return ItemResult(job.id, State.ERROR, reason, output=outcome.output)
        self._journal.prepare(await asyncio.to_thread(self._trees.take))
        return None

    def _is_open(self) -> bool:
        """Whether there is an attempt to make, or one to check."""
        attempts = self._journal.attempts
        if not attempts:
            return True
        last = attempts[-1]
        if last.subtype != Subtype.SUCCESS:
            # Who began anew may well end otherwise; who goes on has the same in front of him.
            return self._fresh and last.subtype in _UNLUCKY and len(attempts) <= self._job.retries
        if last.check is None:
            return True
        return not last.check.ok and len(attempts) <= self._job.retries

    @property
    def _fresh(self) -> bool:
        """Whether each attempt begins anew."""
        return self._job.retry is Retry.FRESH

    async def _attempt(self) -> None:
        attempts = self._journal.attempts
        done = bool(attempts) and (attempts[-1].check is not None or attempts[-1].subtype in _UNLUCKY)
        if not attempts or done:
            await self._ask(attempts[-1].check if attempts else None)
        if self._journal.attempts[-1].subtype == Subtype.SUCCESS:
            self._journal.checked(await self._verify(self._journal.attempts[-1].tree))

    async def _ask(self, failed: Check | None) -> None:
        """Let the agent work, in the item's session, and put on record what it left."""
        number = len(self._journal.attempts)
        session = self._session(number if self._fresh else 0)
        began = monotonic()
        try:
            agent = self._agent(session, number)
            begun = len(session.prompts) > (0 if self._fresh else number)
            if self._fresh and not begun and self._journal.prepared is not None:
                await asyncio.to_thread(self._trees.restore, self._journal.prepared)
            prompt = self._job.prompt if failed is None or self._fresh else _feedback(failed)
            events = agent.resume() if begun else agent.run(prompt)
            result: RunResult | None = None
            async with aclosing(events) as running:
                async for event in running:
                    self._tell(event)
                    result = event if isinstance(event, RunResult) else result
            assert result is not None, "the loop promises a result, last"
        finally:
            session.close()
        tree = await asyncio.to_thread(self._trees.take)
        usage = result.usage
        spent = Spent(
            usage.input_tokens,
            usage.cached_input_tokens,
            usage.output_tokens,
            result.num_turns,
            round(monotonic() - began, 3),
        )
        self._journal.attempted(Attempt(tree, result.subtype.value, result.error, result.result, spent))

    def _session(self, number: int) -> Session:
        folder, name = self._job.folder / "sessions", _session_name(self._job.id, number)
        journal = folder / name / JOURNAL_NAME
        if journal.is_file():
            return Session.resume(journal)
        return Session.create(id=name, directory=folder)

    def _agent(self, session: Session, number: int) -> Agent:
        job, budget, preset = self._job, self._job.budget, self._preset
        if number and self._fresh:
            luck = _LUCK[(number - 1) % len(_LUCK)]
            preset = replace(preset, temperature=max(preset.temperature, luck))
        allowed, denied = (
            tuple(rule for text in texts for rule in parse_rules(text))
            for texts in (job.allowed_tools, job.disallowed_tools)
        )
        given = {name: value for name, value in budget.model_dump().items() if value is not None}
        return make_agent(
            job.worktree,
            self._backend,
            preset,
            policy=Policy(
                job.worktree,
                mode=job.permission_mode,
                sandbox=job.sandbox or SandboxMode.WORKSPACE_WRITE,
                allow=allowed,
                deny=denied,
            ),
            session=session,
            sandbox=self._sandbox,
            limits=Limits(**given),
            seed=_seed(job, number),
            checkpoint=Worktree(self._trees),
        )

    async def _verify(self, tree: str) -> Check:
        """Check an attempt: only allowed paths, then the commands. Leaves the worktree as the agent did."""
        job = self._job
        assert self._journal.prepared is not None
        await asyncio.to_thread(self._trees.restore, tree)
        changed = await asyncio.to_thread(self._trees.between, self._journal.prepared, tree)
        if outside := _outside(changed, job.allow):
            return Check(False, f"changed what it may not: {', '.join(outside[:3])}", "\n".join(outside))
        if job.verify:
            self._say("verify")
        outcome = await self._commands.run(job.verify, job.verify_timeout)
        await asyncio.to_thread(self._trees.restore, tree)
        return Check(outcome.ok, "" if outcome.ok else outcome.reason(), outcome.output)

    def _result(self) -> ItemResult:
        attempts = self._journal.attempts
        last = attempts[-1]
        assert self._journal.prepared is not None
        changed = self._trees.between(self._journal.prepared, last.tree)
        state, reason = _judged(last, changed)
        spent = sum((attempt.spent for attempt in attempts), Spent())
        result = ItemResult(
            self._job.id,
            state,
            reason,
            files=changed.files,
            insertions=changed.insertions,
            deletions=changed.deletions,
            attempts=len(attempts),
            session=_session_name(self._job.id, len(attempts) - 1 if self._fresh else 0),
            answer=last.answer,
            output="" if last.check is None or last.check.ok else last.check.output,
            spent=spent,
        )
        return _with_patch(result, self._job.folder, changed.patch) if changed.files else result

    def _tell(self, event: Event) -> None:
        match event:
            case TurnStarted(turn):
                self._say(f"turn {turn}")
            case ItemStarted(item) if item.type == "command_execution":
                self._say("command")


def _session_name(id: str, number: int) -> str:
    return id if number == 0 else f"{id}-{number + 1}"


def _seed(job: Job, number: int) -> int:
    """The same for the same attempt at the same item, so that a batch that goes on draws as it would have."""
    text = f"{job.seed or 0}/{job.id}/{number}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def _judged(last: Attempt, changed: Difference) -> tuple[State, str]:
    if last.subtype in _OUT_OF_BUDGET:
        return State.BUDGET, last.error or last.subtype
    if last.subtype != Subtype.SUCCESS:
        return State.ERROR, last.error or last.subtype
    assert last.check is not None, "a finished attempt is checked"
    if not last.check.ok:
        return State.VERIFY_FAILED, last.check.reason
    return (State.DONE, "") if changed.files else (State.NO_CHANGE, "")


def _with_patch(result: ItemResult, folder: Path, patch: bytes) -> ItemResult:
    write_private(folder / _PATCH, patch)
    return replace(result, patch=_PATCH, sha256=hashlib.sha256(patch).hexdigest())


def _outside(changed: Difference, allow: tuple[str, ...]) -> list[str]:
    allowed = Paths(allow)
    return [path for path in changed.files if allow and not allowed.holds(path)]


def _feedback(failed: Check) -> str:
    output = f"\n\n{failed.output}" if failed.output else ""
    return f"The check failed: {failed.reason}.{output}\n\nMend it."
