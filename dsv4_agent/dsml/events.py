"""What the streaming parser says, and the message it ends with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FinishReason(StrEnum):
    """Why the token stream ended."""

    STOP = "stop"
    LENGTH = "length"
    INTERRUPTED = "interrupted"


class RepairKind(StrEnum):
    """Malformations that are mended (the catalogue of the wire format document, section 7.2)."""

    REASONING_NOT_CLOSED = "reasoning-not-closed"
    STRAY_THINK_TAG = "stray-think-tag"
    MARKER_SPELLING = "marker-spelling"
    WRAPPER_SPELLING = "wrapper-spelling"
    WRAPPER_MISSING = "wrapper-missing"
    WRAPPER_NOT_CLOSED = "wrapper-not-closed"
    CALL_NOT_CLOSED = "call-not-closed"
    PARAMETER_NOT_CLOSED = "parameter-not-closed"
    PARAMETER_UNMARKED = "parameter-unmarked"
    STRING_ATTRIBUTE_MISSING = "string-attribute-missing"
    TAG_SPELLING = "tag-spelling"
    SELF_CLOSED_CALL = "self-closed-call"
    JSON_BODY = "json-body"
    WHITESPACE = "whitespace"
    PLAIN_XML = "plain-xml"
    SECOND_BLOCK = "second-block"
    TEXT_AFTER_CALLS = "text-after-calls"
    TEXT_AFTER_END = "text-after-end"
    DRAFT_IN_REASONING = "draft-in-reasoning"
    DUPLICATE_PARAMETER = "duplicate-parameter"
    WRAPPED_ARGUMENTS = "wrapped-arguments"
    DROPPED_NULL = "dropped-null"
    COERCED = "coerced"


@dataclass(frozen=True, slots=True)
class Repair:
    """One deviation from the format that was mended, with a text for the log."""

    kind: RepairKind
    detail: str


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """A tool call; when `error` is set the call must not run and the model must be told the text.

    `id` is a chat server's name for it, which its result has to carry; the wire format has none.
    """

    name: str
    arguments: dict[str, object]
    raw: str
    from_reasoning: bool = False
    error: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class ParsedMessage:
    """A whole completion. `errors` are texts for the model about what never became a call."""

    reasoning: str
    content: str
    calls: tuple[ParsedCall, ...] = ()
    repairs: tuple[Repair, ...] = ()
    errors: tuple[str, ...] = ()
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """More reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The head of a call is complete; `index` counts calls from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentDelta:
    """More of the raw value of parameter `name` (for display; the call's `arguments` are the truth)."""

    index: int
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call is complete; only the calls of the finished message may run."""

    index: int
    call: ParsedCall


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """Nothing follows."""

    reason: FinishReason


ParseEvent = ThinkingDelta | TextDelta | CallStarted | ArgumentDelta | CallEnded | TurnEnded


def merge_deltas(events: list[ParseEvent]) -> list[ParseEvent]:
    """Join neighbouring deltas of one kind, so that event lists of different chunkings compare equal."""
    merged: list[ParseEvent] = []
    for event in events:
        last = merged[-1] if merged else None
        match last, event:
            case ThinkingDelta(before), ThinkingDelta(text):
                merged[-1] = ThinkingDelta(before + text)
            case TextDelta(before), TextDelta(text):
                merged[-1] = TextDelta(before + text)
            case ArgumentDelta(index, name, before), ArgumentDelta(same, key, text) if (index, name) == (
                same,
                key,
            ):
                merged[-1] = ArgumentDelta(index, name, before + text)
            case _:
                merged.append(event)
    return merged
