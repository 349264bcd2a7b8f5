"""One call of `dsv4 batch`: a new batch or the rest of an old one, from the plan to the exit code."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from dsv4_agent.batch.coordinator import Coordinator, Outlook
from dsv4_agent.batch.events import BatchEvent
from dsv4_agent.batch.executor import Executor
from dsv4_agent.batch.job import ModelChoice
from dsv4_agent.batch.ledger import Charter, Ledger
from dsv4_agent.batch.plan import Plan, PlanError
from dsv4_agent.batch.runs import RunFolder, new_run
from dsv4_agent.loop.events import Subtype
from dsv4_agent.permissions.decision import SandboxMode
from dsv4_agent.workbench.failures import RunFailure
from dsv4_tools.sandbox.base import Sandbox, SandboxUnavailable
from dsv4_tools.sandbox.select import choose


@dataclass(frozen=True, slots=True)
class Begun:
    """A batch with its folder and open ledger."""

    run: RunFolder
    ledger: Ledger


def begin(charter: Charter) -> Begun:
    """Start a batch. Raises `RunFailure`, `JournalError`."""
    run = new_run(charter.plan.name)
    return Begun(run, Ledger.begin(run.path, charter))


def go_on(run: RunFolder, plan: Plan | None) -> Begun:
    """Take a batch up again. Raises `PlanError` where `plan` is not the one it began with, `JournalError`."""
    ledger = Ledger.resume(run.path)
    if plan is not None and plan != ledger.charter.plan:
        ledger.close()
        other = [key for key in Plan.model_fields if getattr(plan, key) != getattr(ledger.charter.plan, key)]
        raise PlanError(
            f"batch {run.id} goes on with the plan that it began with, which has another {', '.join(other)}; "
            "leave that out, or --resume to begin a new batch"
        )
    if ledger.progress.ended:
        ledger.close()
        raise PlanError(f"batch {run.id} has ended; its results are in {run.path}")
    return Begun(run, ledger)


def sandbox_of(plan: Plan, workspace: Path, readable: Sequence[Path] = ()) -> Sandbox:
    """What the plan's commands run in. Raises `RunFailure` (44) where what it asks for is not to be had."""
    mode = plan.sandbox or SandboxMode.WORKSPACE_WRITE
    explicit = plan.sandbox is SandboxMode.WORKSPACE_WRITE
    try:
        return choose(mode.value, explicit, workspace=workspace, readable=readable)
    except SandboxUnavailable as error:
        raise RunFailure(Subtype.SANDBOX, error.cause, error.remedy) from error


async def events_of(
    begun: Begun, executor: Executor, model: ModelChoice, allowed_failures: int
) -> AsyncGenerator[BatchEvent, None]:
    """Do the batch; the executor is closed and the ledger, too, however it ends."""
    plan = begun.ledger.charter.plan
    try:
        bases = begun.ledger.charter.bases.values()
        sandbox = sandbox_of(plan, begun.run.path, [path for base in bases for path in base.object_folders()])
        outlook = Outlook(executor, model, sandbox, allowed_failures)
        async with aclosing(Coordinator(begun.run, begun.ledger, outlook).run()) as events:
            async for event in events:
                yield event
    finally:
        await executor.close()
        begun.ledger.close()
