"""Where turns come from: the protocol between the endpoints and whatever samples.

A source gets the ids of a whole prompt and starts a turn, which gives one `Begun`, any number of `Sampled`
and one `Ended`, last. The engine in this process and a script are two sources.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from dsv4_agent.dsml.dialect import Dialect, Encoder
from dsv4_agent.dsml.events import FinishReason
from dsv4_agent.dsml.segments import Segment
from dsv4_agent.dsml.vocabulary import Vocabulary
from dsv4_agent.loop.preset import Preset

if TYPE_CHECKING:
    from dsv4_model.generation import Constraint


class Codec(Vocabulary, Protocol):
    """The model's tokenizer, as far as the server needs it; `dsv4_model.tokenizer.Tokenizer` satisfies it."""

    @property
    def fingerprint(self) -> str:
        """A digest of what every id stands for."""
        ...

    @property
    def added_tokens(self) -> Mapping[str, int]:
        """The special tokens by their text."""
        ...

    @property
    def eos_id(self) -> int:
        """The model's stop token."""
        ...

    @property
    def assistant_id(self) -> int:
        """``<｜Assistant｜>``."""
        ...

    @property
    def user_id(self) -> int:
        """``<｜User｜>``."""
        ...

    def encode(self, text: str, structure: bool) -> list[int]:
        """Ids of a text; with `structure` special tokens are recognised."""
        ...

    def encode_segments(self, segments: Sequence[Segment]) -> list[int]:
        """Ids of a rendered prompt."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens included."""
        ...


@dataclass(frozen=True, slots=True)
class ServedModel:
    """Who answers. `preset` brings the sampling that the model is used with where a request is silent.

    `context_window` is in tokens; `encoder` is the one whose bytes chat requests are rendered to.
    """

    name: str
    context_window: int
    codec: Codec
    preset: Preset
    encoder: Encoder

    @property
    def dialect(self) -> Dialect:
        """The generation of the wire format."""
        return self.preset.dialect


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one turn is sampled; `max_tokens` bounds it, `thinking_budget` (tokens) an open thought."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0
    top_k: int = 0
    seed: int | None = None
    thinking_budget: int | None = None


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """One turn to sample behind `prompt`.

    `constraint` belongs to this turn alone. `logprobs` asks for the log-probability of each sampled token and
    for that many alternatives. `client` is who is served in turn with others; `marks` are positions in the
    prompt at which other requests may part from this one.
    """

    prompt: tuple[int, ...]
    sampling: Sampling
    constraint: Constraint | None = None
    logprobs: int | None = None
    client: str = ""
    marks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Begun:
    """The prompt was admitted: tokens whose KV state was there already, tokens to compute, and why.

    `restored` of the reused ones came from another timeline or from disk.
    """

    reused: int = 0
    prefilled: int = 0
    restored_from: str | None = None
    cause: str | None = None
    restored: int = 0


@dataclass(frozen=True, slots=True)
class TokenOdds:
    """Natural log-probability of a sampled token, and the likeliest ids with theirs, likeliest first."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Sampled:
    """One more token; the end-of-turn token included."""

    id: int
    odds: TokenOdds | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The turn is over. `kv_bytes` is the size of its KV state by kind."""

    reason: FinishReason
    kv_bytes: Mapping[str, int] = field(default_factory=dict)


TurnEvent = Begun | Sampled | Ended


class Turn(Protocol):
    """The events of a turn that was started; iterate it once, and cancel it when it is no longer wanted.

    Iterating raises `ApiError` for what the client must be told.
    """

    def __aiter__(self) -> AsyncIterator[TurnEvent]: ...

    async def __anext__(self) -> TurnEvent: ...

    def cancel(self) -> None:
        """Stop computing; harmless when the turn is over."""
        ...


class TurnSource(Protocol):
    """Samples turns, many at a time."""

    @property
    def model(self) -> ServedModel: ...

    def start(self, request: TurnRequest) -> Turn:
        """Start one turn, from the event loop. Raises `ApiError` where there is no place for it."""
        ...

    async def close(self, patience: float) -> None:
        """Refuse new turns, let running ones end within `patience` seconds, then release the model.

        What still runs then is told that the server ends (`ApiError`, 503). Another call, while one waits,
        can only shorten the time.
        """
        ...
