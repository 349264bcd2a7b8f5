"""What events report of a run's surroundings and figures: model, repository, sandbox, tokens, bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a turn or of a run. `reasoning_tokens` is a part of `output_tokens`.

    `cost` is what the turns cost whose cost is known, in `currency`; None where that is none.
    """

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost: float | None = None
    currency: str | None = None

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            None if self.cost is None and other.cost is None else (self.cost or 0.0) + (other.cost or 0.0),
            self.currency or other.currency,
        )


@dataclass(frozen=True, slots=True)
class Discarded:
    """What had come of a turn that begins anew; it counts no more. `calls` is their text as it came."""

    reasoning: str = ""
    content: str = ""
    calls: str = ""


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
class KvUse:
    """The KV state in tokens. `bytes` counts it by kind, where the state is in this process.

    `restored` of the `reused` tokens were not in memory: they came from disk.
    """

    used: int
    limit: int
    reused: int
    prefilled: int
    evicted: int = 0
    bytes: Mapping[str, int] = field(default_factory=dict)
    restored: int = 0


@dataclass(frozen=True, slots=True)
class Breakdown:
    """What fills the context, in tokens (estimated from characters where there is no tokenizer)."""

    system: int = 0
    tools: int = 0
    memory: int = 0
    conversation: int = 0
    thinking: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.system + self.tools + self.memory + self.conversation + self.thinking


@dataclass(frozen=True, slots=True)
class GitOutcome:
    """What became of the repository; filled in by the front end that knows the base."""

    base: str | None
    head: str | None
    commits: tuple[str, ...]
    diffstat: Mapping[str, int]
