"""How the loop's events move the status of a chat."""

from __future__ import annotations

from dsv4_agent.chat.status import Phase, Status
from dsv4_agent.loop.events import (
    AgentMessageItem,
    ApprovalRequested,
    CommandExecutionItem,
    Compacted,
    ContextUpdated,
    Event,
    FileChangeItem,
    Init,
    ItemCompleted,
    ItemStarted,
    ReasoningItem,
    Retry,
    Rewound,
    RunResult,
    ToolCallItem,
    TurnCompleted,
    TurnStarted,
)

_COMPACTING = (Phase.COMPACTING, Phase.STOPPING)


def follow(status: Status, event: Event) -> None:
    """Change `status` as `event` tells; a stop that was asked for stays shown until the run has ended."""
    _figures(status, event)
    if status.phase in _COMPACTING and not isinstance(event, RunResult):
        return
    match event:
        case TurnStarted() | Retry():
            status.enter(Phase.READING)
        case ItemStarted(item=ReasoningItem()):
            status.enter(Phase.THINKING)
        case ItemStarted(item=AgentMessageItem()):
            status.enter(Phase.WRITING)
        case ItemStarted(item=CommandExecutionItem()):
            status.enter(Phase.WORKING, "shell")
        case ItemStarted(item=FileChangeItem(tool=tool) | ToolCallItem(tool=tool)):
            status.enter(Phase.WORKING, tool)
        case ApprovalRequested():
            status.enter(Phase.ASKING)
        case ItemCompleted(item=CommandExecutionItem() | FileChangeItem() | ToolCallItem()):
            status.enter(Phase.READING)
        case RunResult():
            status.enter(Phase.IDLE)


def _figures(status: Status, event: Event) -> None:
    match event:
        case Init():
            status.session = event.session_id
            info = event.sandbox
            status.sandbox = f"{info.effective} (no sandbox)" if info.degraded else info.effective
        case ContextUpdated(kv=kv, breakdown=breakdown):
            status.kv, status.breakdown = kv, breakdown
        case TurnCompleted(usage=usage, prefill_tps=prefill, decode_tps=decode):
            status.prefill_tps, status.decode_tps = prefill, decode
            if usage.cost is not None:
                status.cost, status.currency = (status.cost or 0.0) + usage.cost, usage.currency
        case Rewound() | Compacted():
            status.kv, status.breakdown = None, None
