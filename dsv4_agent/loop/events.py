"""The typed events of a run: everything a front end, the journal or a test can observe.

One stream, one direction (headless contract, F2). Order within a run::

    Init, UserMessage, then per turn: TurnStarted, (ItemStarted, ItemDelta*, ItemCompleted | PermissionDenied
    | Retry)*, ContextUpdated, TurnCompleted, UserMessage* (steering); and exactly one RunResult, always last.

An item is started once and completed once, under the same id; its deltas lie between. A denied call is
ItemStarted, PermissionDenied, ItemCompleted(status=declined); a call that a person is asked about has an
ApprovalRequested after its ItemStarted. Between runs there can be a Rewound; a run that compacts
has a PrefixBreak, one turn, and a Compacted. `event_json` gives the published
JSON form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from dsv4_agent.loop.facts import (
    Breakdown,
    Discarded,
    GitInfo,
    GitOutcome,
    KvUse,
    ModelInfo,
    SandboxInfo,
    Usage,
)

SCHEMA_VERSION = 1


class Subtype(StrEnum):
    """How a run ended."""

    SUCCESS = "success"
    MAX_TURNS = "error_max_turns"
    MAX_TOKENS = "error_max_tokens"
    MAX_TIME = "error_max_time"
    MAX_TOOL_CALLS = "error_max_tool_calls"
    SCHEMA = "error_schema"
    MODEL = "error_model"
    AUTH = "error_auth"
    SANDBOX = "error_sandbox"
    UNTRUSTED = "error_untrusted"
    CONFIG = "error_config"
    INPUT = "error_input"
    DENIED = "error_denied"
    LOOP = "error_loop"
    INTERNAL = "error_internal"
    ABORTED = "aborted"


EXIT_CODES: Mapping[Subtype, int] = {
    Subtype.SUCCESS: 0,
    Subtype.MAX_TURNS: 53,
    Subtype.MAX_TOKENS: 53,
    Subtype.MAX_TIME: 53,
    Subtype.MAX_TOOL_CALLS: 53,
    Subtype.SCHEMA: 56,
    Subtype.MODEL: 1,
    Subtype.AUTH: 41,
    Subtype.SANDBOX: 44,
    Subtype.UNTRUSTED: 55,
    Subtype.CONFIG: 52,
    Subtype.INPUT: 42,
    Subtype.DENIED: 57,
    Subtype.LOOP: 1,
    Subtype.INTERNAL: 1,
    Subtype.ABORTED: 130,
}
"""Exit code of each ending (headless contract, F3), before the front end's own conditions are applied."""


class ItemStatus(StrEnum):
    """How a tool call ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    DECLINED = "declined"
    TIMED_OUT = "timed_out"


@dataclass(frozen=True, slots=True)
class FileChangeInfo:
    """One changed file; `kind` is add, update, delete or rename; counts are lines.

    `diff` holds unified hunks without file headers, cut with a last line `… N more lines` where it is long.
    """

    path: str
    kind: str
    added: int
    removed: int
    diff: str = ""


@dataclass(frozen=True, slots=True)
class ReasoningItem:
    """What the model thought. A `partial` one was cut off and counts no more: a `Retry` follows."""

    type: ClassVar[str] = "reasoning"
    id: str
    text: str = ""
    tokens: int = 0
    partial: bool = False


@dataclass(frozen=True, slots=True)
class AgentMessageItem:
    """What the model said outside its thinking; `partial` as of a `ReasoningItem`."""

    type: ClassVar[str] = "agent_message"
    id: str
    text: str = ""
    partial: bool = False


@dataclass(frozen=True, slots=True)
class CommandExecutionItem:
    """A shell command. `status` is None until it is over."""

    type: ClassVar[str] = "command_execution"
    id: str
    command: str
    cwd: str = "."
    sandboxed: bool = False
    status: ItemStatus | None = None
    exit_code: int | None = None
    output: str = ""
    output_truncated: bool = False
    output_path: str | None = None
    duration_ms: int = 0


@dataclass(frozen=True, slots=True)
class FileChangeItem:
    """An edit or write. `match` says how an edit found its place; `output` is what the model was told."""

    type: ClassVar[str] = "file_change"
    id: str
    tool: str
    path: str
    status: ItemStatus | None = None
    changes: tuple[FileChangeInfo, ...] = ()
    match: str | None = None
    output: str = ""
    duration_ms: int = 0


@dataclass(frozen=True, slots=True)
class ToolCallItem:
    """Any other tool: read, grep, git_status, ..."""

    type: ClassVar[str] = "tool_call"
    id: str
    tool: str
    input: Mapping[str, object]
    status: ItemStatus | None = None
    output: str = ""
    output_truncated: bool = False
    duration_ms: int = 0


Item = ReasoningItem | AgentMessageItem | CommandExecutionItem | FileChangeItem | ToolCallItem


@dataclass(frozen=True, slots=True, kw_only=True)
class Init:
    """First event of a run: what it runs with."""

    type: ClassVar[str] = "init"
    schema_version: int = SCHEMA_VERSION
    session_id: str
    dsv4_version: str
    model: ModelInfo
    cwd: str
    git: GitInfo | None = None
    trusted: bool = False
    ignored_repo_config: tuple[str, ...] = ()
    permission_mode: str = "default"
    sandbox: SandboxInfo = field(default_factory=SandboxInfo)
    tools: tuple[str, ...] = ()
    mcp_servers: tuple[Mapping[str, str], ...] = ()
    memory_files: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UserMessage:
    """What a person said now reaches the model: a prompt, or (`steering`) a word while the agent works."""

    type: ClassVar[str] = "user.message"
    text: str
    steering: bool = False


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The model is about to be asked; turns count from 1 within a session."""

    type: ClassVar[str] = "turn.started"
    turn: int


@dataclass(frozen=True, slots=True)
class ItemStarted:
    """An item begins; the fields known only at its end have their defaults."""

    type: ClassVar[str] = "item.started"
    item: Item


@dataclass(frozen=True, slots=True)
class ItemDelta:
    """More text of a started reasoning or agent_message item. Never journaled."""

    type: ClassVar[str] = "item.delta"
    id: str
    text: str


@dataclass(frozen=True, slots=True)
class ItemCompleted:
    """The item in full."""

    type: ClassVar[str] = "item.completed"
    item: Item


@dataclass(frozen=True, slots=True)
class ApprovalRequested:
    """The run waits for a person's answer about the call of item `id` (see `Agent.answer`).

    `changes` previews what an edit would do; `error` says why there is no preview.
    """

    type: ClassVar[str] = "approval.requested"
    id: str
    tool: str
    input: Mapping[str, object]
    rule: str | None
    source: str
    reason: str
    changes: tuple[FileChangeInfo, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class PermissionDenied:
    """A call was refused (or would have needed a person to ask)."""

    type: ClassVar[str] = "permission.denied"
    tool: str
    input: Mapping[str, object]
    rule: str | None
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Retry:
    """The backend will try again after `delay_ms`.

    With `discarded` the turn begins anew: that is what had come of it since `TurnStarted`, and it counts no
    more.
    """

    type: ClassVar[str] = "retry"
    attempt: int
    max: int
    reason: str
    delay_ms: int
    discarded: Discarded | None = None


@dataclass(frozen=True, slots=True)
class ContextUpdated:
    """State of the context after a turn's sampling."""

    type: ClassVar[str] = "context.updated"
    kv: KvUse
    breakdown: Breakdown


@dataclass(frozen=True, slots=True)
class PrefixBreak:
    """Cached tokens are lost: why, and how many must be computed again."""

    type: ClassVar[str] = "prefix.break"
    cause: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Rewound:
    """The conversation is now as it was before its user message number `kept + 1`."""

    type: ClassVar[str] = "rewound"
    kept: int


@dataclass(frozen=True, slots=True)
class Compacted:
    """Of the conversation only `summary` is left behind the opening; sizes are in tokens."""

    type: ClassVar[str] = "compacted"
    summary: str
    tokens_before: int
    tokens_after: int


@dataclass(frozen=True, slots=True)
class Notice:
    """The loop did something a person would want to know: a guard's note, a repaired call, a cut answer."""

    type: ClassVar[str] = "notice"
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class TurnCompleted:
    """A turn is over, its tool results included. Speeds are tokens a second, None where not measured."""

    type: ClassVar[str] = "turn.completed"
    turn: int
    usage: Usage
    prefill_tps: float | None = None
    decode_tps: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """Last event of a run. `error` is one line with the remedy; None on success."""

    type: ClassVar[str] = "result"
    subtype: Subtype
    is_error: bool
    exit_code: int
    result: str
    session_id: str
    num_turns: int
    duration_ms: int
    error: str | None = None
    structured_output: object = None
    usage: Usage = field(default_factory=Usage)
    permission_denials: tuple[PermissionDenied, ...] = ()
    files_changed: tuple[str, ...] = ()
    git: GitOutcome | None = None
    checkpoint: str | None = None


Event = (
    Init
    | UserMessage
    | TurnStarted
    | ItemStarted
    | ItemDelta
    | ItemCompleted
    | ApprovalRequested
    | PermissionDenied
    | Retry
    | ContextUpdated
    | PrefixBreak
    | Rewound
    | Compacted
    | Notice
    | TurnCompleted
    | RunResult
)
