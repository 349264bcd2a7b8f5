"""The typed events of a run: everything a front end, the journal or a test can observe.

One stream, one direction (headless contract, F2). Order within a run::

    Init, then per turn: TurnStarted, (ItemStarted, ItemDelta*, ItemCompleted | PermissionDenied | Retry)*,
    ContextUpdated, TurnCompleted; and exactly one RunResult, always last.

An item is started once and completed once, under the same id; its deltas lie between. A denied call is
ItemStarted, PermissionDenied, ItemCompleted(status=declined). `event_json` gives the published JSON form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

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
class Usage:
    """Tokens of a turn or of a run. `reasoning_tokens` is a part of `output_tokens`."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Which model answers. `backend` is inprocess, server or scripted; the window is in tokens."""

    id: str
    backend: str
    context_window: int


@dataclass(frozen=True, slots=True)
class GitInfo:
    """The repository when the run began; `head` is None before the first commit."""

    head: str | None
    branch: str | None
    dirty: bool


@dataclass(frozen=True, slots=True)
class SandboxInfo:
    """The sandbox that was asked for and the one in effect."""

    requested: str = "off"
    effective: str = "direct"
    network: str = "on"
    degraded: bool = False
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class FileChangeInfo:
    """One changed file; `kind` is add, update, delete or rename; counts are lines."""

    path: str
    kind: str
    added: int
    removed: int


@dataclass(frozen=True, slots=True)
class ReasoningItem:
    """What the model thought."""

    type: ClassVar[str] = "reasoning"
    id: str
    text: str = ""
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class AgentMessageItem:
    """What the model said outside its thinking."""

    type: ClassVar[str] = "agent_message"
    id: str
    text: str = ""


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
    """The backend will try again after `delay_ms`."""

    type: ClassVar[str] = "retry"
    attempt: int
    max: int
    reason: str
    delay_ms: int


@dataclass(frozen=True, slots=True)
class KvUse:
    """The KV state in tokens."""

    used: int
    limit: int
    reused: int
    prefilled: int
    evicted: int = 0


@dataclass(frozen=True, slots=True)
class Breakdown:
    """What fills the context, in tokens (estimated from characters where there is no tokenizer)."""

    system: int = 0
    tools: int = 0
    memory: int = 0
    conversation: int = 0
    thinking: int = 0


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


@dataclass(frozen=True, slots=True)
class GitOutcome:
    """What became of the repository; filled in by the front end that knows the base."""

    base: str | None
    head: str | None
    commits: tuple[str, ...]
    diffstat: Mapping[str, int]


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
    | TurnStarted
    | ItemStarted
    | ItemDelta
    | ItemCompleted
    | PermissionDenied
    | Retry
    | ContextUpdated
    | PrefixBreak
    | Notice
    | TurnCompleted
    | RunResult
)
