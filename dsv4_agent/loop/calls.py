"""One tool call from the parsed text to the result text: permission, write-ahead record, run, item events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, replace
from time import monotonic

from dsv4_agent.dsml.events import ParsedCall
from dsv4_agent.loop.events import (
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
from dsv4_agent.permissions.decision import Access, Decision, Outcome, Policy, decide
from dsv4_agent.session.session import Session
from dsv4_tools.base import Effect, Status, ToolError, ToolResult

CallItem = CommandExecutionItem | FileChangeItem | ToolCallItem

NOT_RUN = "Error: not run: the turn ended before it."
INTERRUPTED = "Error: interrupted; it may have taken effect in part."


@dataclass(slots=True)
class CallRunner:
    """Runs the calls of a session one after the other. `outcome` is the last finished call's."""

    session: Session
    toolbox: Toolbox
    policy: Policy
    interrupt: Interrupt
    new_id: Callable[[], str]
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
        if decision.outcome is not Outcome.ALLOW:
            text = f"Error: permission denied: {decision.reason}."
            self.outcome = CallOutcome(call.name, call.arguments, text, changed=False)
            yield _denied(call, decision)
            yield ItemCompleted(_ended(item, ItemStatus.DECLINED, text))
            return
        self.session.start_call(turn, index, call.name, call.arguments)
        begin = monotonic()
        try:
            result = await self.interrupt.race(self.toolbox.run(call.name, arguments))
        except BaseException as error:
            self.session.end_call(turn, index, INTERRUPTED, "interrupted")
            if isinstance(error, InterruptedRunError):
                yield ItemCompleted(_ended(item, ItemStatus.FAILED, INTERRUPTED))
            raise
        self.session.end_call(turn, index, result.text, result.status.value)
        self.outcome = CallOutcome(call.name, call.arguments, result.text, changed=bool(result.changes))
        yield ItemCompleted(_completed(item, result, round((monotonic() - begin) * 1000)))


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
            changes = tuple(
                FileChangeInfo(change.path, change.kind.value, change.added, change.removed)
                for change in result.changes
            )
            return replace(
                item,
                status=status,
                output=result.text,
                changes=changes,
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


def _denied(call: ParsedCall, decision: Decision) -> PermissionDenied:
    return PermissionDenied(call.name, call.arguments, decision.rule, decision.source, decision.reason)
