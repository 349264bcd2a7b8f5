"""One tool call from the parsed text to the result text: permission, write-ahead record, run, item events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Protocol

from pydantic import BaseModel

from dsv4_agent.dsml.events import ParsedCall
from dsv4_agent.loop.approval import Answer, Approvals
from dsv4_agent.loop.events import (
    ApprovalRequested,
    CommandExecutionItem,
    Event,
    FileChangeInfo,
    FileChangeItem,
    ItemCompleted,
    ItemStarted,
    ItemStatus,
    PermissionDenied,
    ToolCallItem,
)
from dsv4_agent.loop.guards import CallOutcome
from dsv4_agent.loop.interrupt import Interrupt, InterruptedRunError
from dsv4_agent.loop.toolbox import Toolbox
from dsv4_agent.permissions.decision import Access, Decision, Outcome, Policy, decide, hidden
from dsv4_agent.session.session import Session
from dsv4_tools.base import Effect, FileChange, Status, ToolError, ToolResult

CallItem = CommandExecutionItem | FileChangeItem | ToolCallItem

NOT_RUN = "Error: not run: the turn ended before it."
INTERRUPTED = "Error: interrupted; it may have taken effect in part."


class Checkpoint(Protocol):
    """Keeps states of the files that calls may change."""

    async def take(self) -> str:
        """Keep the state as it is now; a name for it."""
        ...

    async def restore(self, state: str) -> None:
        """Make the files what they were."""
        ...


@dataclass(slots=True)
class CallRunner:
    """Runs the calls of a session one after the other. `outcome` is the last finished call's.

    `policy` may be exchanged between calls; an answer with rules adds to it. With `checkpoint` the state of
    the files before each call that can change them is on record, and a call that was interrupted can be
    taken back (`take_back`) and run again.
    """

    session: Session
    toolbox: Toolbox
    policy: Policy
    interrupt: Interrupt
    new_id: Callable[[], str]
    approvals: Approvals = field(default_factory=Approvals)
    checkpoint: Checkpoint | None = None
    outcome: CallOutcome | None = None

    async def run(self, turn: int, index: int, call: ParsedCall) -> AsyncGenerator[Event, None]:
        """Do one call; its events come out, its outcome is left in `outcome`.

        Raises `InterruptedRunError` after the call's processes are gone and its end is on record, and
        `JournalError` before the call has started.
        """
        self.outcome = None
        item = _item(self.new_id(), call.name, call.arguments, self.toolbox)
        yield ItemStarted(item)
        try:
            if call.error is not None:
                raise ToolError(call.error)
            arguments = self.toolbox.validate(call.name, call.arguments)
        except ToolError as error:
            text = error.text
            self.outcome = CallOutcome(call.name, call.arguments, text, changed=False)
            yield ItemCompleted(_ended(item, ItemStatus.FAILED, text))
            return
        access = _ACCESS[self.toolbox.effect(call.name)]
        decision = decide(self.policy, call.name, access, arguments.model_dump())
        if decision.outcome is Outcome.ASK and self.policy.interactive:
            question = self.approvals.ask(item.id)
            try:
                yield await self._request(item.id, call, arguments, decision)
                decision = self._answered(decision, await self.interrupt.race(_settled(question)))
            except InterruptedRunError:
                yield ItemCompleted(_ended(item, ItemStatus.DECLINED, NOT_RUN))
                raise
            finally:
                self.approvals.close(item.id)
        if decision.outcome is not Outcome.ALLOW:
            text = f"Error: permission denied: {decision.reason}."
            self.outcome = CallOutcome(call.name, call.arguments, text, changed=False)
            yield _denied(call, decision)
            yield ItemCompleted(_ended(item, ItemStatus.DECLINED, text))
            return
        before: str | None = None
        if self.checkpoint is not None and access is not Access.READ:
            before = await self.interrupt.race(self.checkpoint.take())
        changes = access is not Access.READ
        self.session.start_call(turn, index, call.name, call.arguments, before, changes=changes)
        begin = monotonic()
        try:
            result = await self.interrupt.race(
                self.toolbox.run(call.name, arguments, hidden(self.policy, call.name))
            )
        except BaseException as error:
            self.session.end_call(turn, index, INTERRUPTED, "interrupted")
            if isinstance(error, InterruptedRunError):
                yield ItemCompleted(_ended(item, ItemStatus.FAILED, INTERRUPTED))
            raise
        self.session.end_call(turn, index, result.text, result.status.value)
        self.outcome = CallOutcome(call.name, call.arguments, result.text, changed=bool(result.changes))
        yield ItemCompleted(_completed(item, result, round((monotonic() - begin) * 1000)))

    async def take_back(self, turn: int, index: int, call: ParsedCall) -> bool:
        """Answer a call from the record: True, with its outcome, where it ended or can't be run again.

        False where it may run: it never began, or what it did before it was interrupted is undone.
        """
        record = self.session.recorded_calls.get((turn, index))
        if record is None:
            return False
        if record.result is None:
            if self.toolbox.effect(call.name) is Effect.READ:
                return False
            if self.checkpoint is not None and record.before is not None:
                await self.checkpoint.restore(record.before)
                return False
        text = INTERRUPTED if record.result is None else record.result
        changed = record.status == Status.COMPLETED and self.toolbox.effect(call.name) is Effect.WRITE
        self.outcome = CallOutcome(call.name, call.arguments, text, changed)
        return True

    async def _request(
        self, id: str, call: ParsedCall, arguments: BaseModel, decision: Decision
    ) -> ApprovalRequested:
        changes: tuple[FileChangeInfo, ...] = ()
        error = None
        try:
            changes = _infos(await self.interrupt.race(self.toolbox.preview(call.name, arguments)))
        except ToolError as failure:
            error = failure.message
        return ApprovalRequested(
            id, call.name, call.arguments, decision.rule, decision.source, decision.reason, changes, error
        )

    def _answered(self, decision: Decision, answer: Answer) -> Decision:
        if not answer.allowed:
            reason = f"the user refused it: {answer.reason}" if answer.reason else "the user refused it"
            return Decision(Outcome.DENY, decision.rule, "user", reason)
        self.policy = replace(self.policy, allow=(*self.policy.allow, *answer.rules))
        return Decision(Outcome.ALLOW, None, "user", "the user allowed it")


async def _settled(question: asyncio.Future[Answer]) -> Answer:
    return await question


_ACCESS = {Effect.READ: Access.READ, Effect.WRITE: Access.WRITE, Effect.EXECUTE: Access.EXECUTE}
_STATUS = {
    Status.COMPLETED: ItemStatus.COMPLETED,
    Status.FAILED: ItemStatus.FAILED,
    Status.TIMED_OUT: ItemStatus.TIMED_OUT,
}


def _item(id: str, name: str, arguments: Mapping[str, object], toolbox: Toolbox) -> CallItem:
    match name:
        case "shell":
            sandboxed = toolbox.context.sandbox.name != "direct"
            return CommandExecutionItem(id, str(arguments.get("command", "")), sandboxed=sandboxed)
        case "edit" | "write":
            return FileChangeItem(id, name, str(arguments.get("path", "")))
        case _:
            return ToolCallItem(id, name, arguments)


def _ended(item: CallItem, status: ItemStatus, output: str) -> CallItem:
    return replace(item, status=status, output=output)


def _completed(item: CallItem, result: ToolResult, duration_ms: int) -> CallItem:
    status = _STATUS[result.status]
    match item:
        case CommandExecutionItem():
            return replace(
                item,
                status=status,
                output=result.text,
                exit_code=result.exit_code,
                output_truncated=result.truncated,
                output_path=None if result.output_path is None else str(result.output_path),
                duration_ms=duration_ms,
            )
        case FileChangeItem():
            return replace(
                item,
                status=status,
                output=result.text,
                changes=_infos(result.changes),
                match=result.match,
                duration_ms=duration_ms,
            )
        case ToolCallItem():
            return replace(
                item,
                status=status,
                output=result.text,
                output_truncated=result.truncated,
                duration_ms=duration_ms,
            )


def _infos(changes: Iterable[FileChange]) -> tuple[FileChangeInfo, ...]:
    return tuple(
        FileChangeInfo(change.path, change.kind.value, change.added, change.removed, change.diff)
        for change in changes
    )


def _denied(call: ParsedCall, decision: Decision) -> PermissionDenied:
    return PermissionDenied(call.name, call.arguments, decision.rule, decision.source, decision.reason)
