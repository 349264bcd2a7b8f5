"""The boundary between the loop and whatever produces tokens.

A backend is handed the *whole* conversation each time and answers with the events of one assistant turn:
optional `BackendNotice`s, `PrefixSynced` and `Retrying`s, any number of `SampledText`/`SampledIds` (a chat
server: `SampledReasoning`, then text, then `SampledCall`s), and exactly one `Finished`, last. Closing the
iterator early cancels the generation. What it could not do it raises as `ModelError`. Parsing, tools and the
transcript are the loop's business.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from dsv4_agent.dsml.dialect import Dialect, GrammarMode, Thinking
from dsv4_agent.dsml.events import FinishReason
from dsv4_agent.dsml.segments import Segment
from dsv4_agent.dsml.vocabulary import Vocabulary


class BackendKind(StrEnum):
    """Where the tokens come from."""

    INPROCESS = "inprocess"
    SERVER = "server"
    SCRIPTED = "scripted"


class ModelError(Exception):
    """The model can't answer. The message is one line: the cause, then the remedy.

    `unreachable` tells a model that could not be reached or refused the key from one that failed.
    """

    def __init__(self, message: str, *, unreachable: bool = False) -> None:
        super().__init__(message)
        self.unreachable = unreachable


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """Who answers. `context_window` is in tokens; `tokenizes` says that `encode` returns ids.

    `renders` says that it makes the prompt itself, out of messages: effort is a word of the request there,
    and no text of the opening.
    """

    id: str
    kind: BackendKind
    context_window: int
    tokenizes: bool = False
    renders: bool = False


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """How one assistant turn is to be sampled.

    `effort` is how hard to think, for servers that take a word for it; elsewhere it stands in the opening.
    `max_tokens` bounds this turn's sampled tokens; `thinking_budget` those before `</think>`; `tools` are
    the declared functions (`{"name", "description", "parameters"}`), for the `grammar` of their calls, which
    only backends that sample themselves can apply. So it is with `answer_schema`, the JSON schema of a turn
    without calls.
    """

    max_tokens: int
    thinking: Thinking
    dialect: Dialect
    tools: tuple[Mapping[str, object], ...] = ()
    temperature: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    thinking_budget: int | None = None
    effort: str | None = None
    grammar: GrammarMode = GrammarMode.ON
    answer_schema: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class GenerationUsage:
    """Tokens of one generation, as the backend counts or estimates them.

    `counted` says that a server's tokenizer did. `cost` (in `currency`) is there where it did and the prices
    are known.
    """

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    currency: str | None = None
    counted: bool = False


@dataclass(frozen=True, slots=True)
class SampledText:
    """Sampled model text, special tokens spelt out (for backends without ids)."""

    text: str


@dataclass(frozen=True, slots=True)
class SampledReasoning:
    """Reasoning that a chat server has told apart: nothing in it is markup.

    A chat backend begins each turn with one, be it empty; `SampledText` is then the answer.
    """

    text: str


@dataclass(frozen=True, slots=True)
class SampledIds:
    """Sampled ids, end-of-turn token included."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SampledCall:
    """A tool call that a chat server has read out of the model's text: its own id, the arguments as sent."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class PrefixSynced:
    """The KV state now holds the conversation: tokens kept, tokens computed, and why a prefix was lost.

    `restored` of the kept tokens came from a state on disk or of another conversation.
    """

    reused: int
    prefilled: int
    restored_from: str | None = None
    cause: str | None = None
    restored: int = 0


@dataclass(frozen=True, slots=True)
class Retrying:
    """The backend waits `delay_ms` and tries again.

    With `discards` what was sampled of this turn so far counts no more: the turn begins anew. Without, what
    follows continues it.
    """

    attempt: int
    max: int
    reason: str
    delay_ms: int
    discards: bool = False


@dataclass(frozen=True, slots=True)
class GrammarUse:
    """Tokens sampled inside tool calls; how many of them the grammar forbids (it gives up at the first)."""

    tokens: int
    violations: int


@dataclass(frozen=True, slots=True)
class Finished:
    """End of the turn. `grammar` is there when it was to be counted.

    `kv_bytes` is the size of the KV state by kind, for a state in this process.
    """

    reason: FinishReason
    usage: GenerationUsage = GenerationUsage()
    grammar: GrammarUse | None = None
    kv_bytes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BackendNotice:
    """What the user should know although the turn goes on; one line: the cause, then the remedy."""

    text: str


BackendEvent = (
    SampledText
    | SampledReasoning
    | SampledIds
    | SampledCall
    | PrefixSynced
    | Retrying
    | BackendNotice
    | Finished
)


class Stretch(Protocol):
    """What was appended to a conversation at once, and its ids where they are known."""

    @property
    def segments(self) -> Sequence[Segment]: ...

    @property
    def ids(self) -> Sequence[int] | None: ...


class Conversation(Protocol):
    """What a backend may see of a transcript: the truth (segments, ids) and projections of it."""

    @property
    def entries(self) -> Sequence[Stretch]:
        """Everything so far, in order.

        A stretch stays the same object as long as it is part of the conversation: `is` tells what is new.
        """
        ...

    def segments(self) -> Sequence[Segment]:
        """Everything so far, in order; sampled text counts as structure."""
        ...

    def tokens(self) -> Sequence[int]:
        """The exact ids so far. Raises `ValueError` where a part has none."""
        ...

    def messages(self) -> list[dict[str, object]]:
        """Chat messages for display and for chat endpoints: role, content, reasoning_content, tool_calls."""
        ...

    def messages_by_entry(self) -> Sequence[tuple[Mapping[str, object], ...]]:
        """The same messages, those that were appended together in one tuple each.

        A tuple stays the same object as long as it is part of the conversation: `is` tells what is new.
        """
        ...

    def last_results(self) -> tuple[str, ...]:
        """The texts of the tool results at the end; empty right after a user's prompt."""
        ...


class Backend(Protocol):
    """A source of assistant turns. Implementations need not inherit."""

    @property
    def info(self) -> BackendInfo: ...

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The tokenizer's vocabulary; None for backends that answer in text."""
        ...

    def encode(self, segments: Sequence[Segment]) -> tuple[int, ...] | None:
        """Token ids of prompt text, content so encoded that it can't act as structure; or None."""
        ...

    def generate(self, conversation: Conversation, request: GenerationRequest) -> AsyncIterator[BackendEvent]:
        """Sample one assistant turn. Raises `ModelError`."""
        ...

    async def close(self) -> None:
        """Release the model; safe to call twice."""
        ...
