"""What a chunk of a chat completion says, whatever the server's way of saying it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dsv4_agent.backends.base import GenerationUsage
from dsv4_agent.backends.chat_server.manners import REASONING_FIELDS

_MOST_TOKENS: Final = 1 << 40


class UnreadableChunkError(ValueError):
    """A chunk is no JSON object."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk. `calls` are pieces of tool calls; with `whole` they are complete calls."""

    reasoning: str = ""
    reasoning_field: str | None = None
    content: str = ""
    calls: tuple[object, ...] = ()
    whole: bool = False
    finish: str | None = None
    usage: GenerationUsage | None = None
    error: Mapping[str, object] | None = None


def read_chunk(data: str) -> Chunk:
    """Read a chunk of a stream, or the whole completion of a server that does not stream.

    Raises `UnreadableChunkError`.
    """
    try:
        value = json.loads(data, strict=False)
    except (ValueError, RecursionError) as error:
        raise UnreadableChunkError(f"not JSON: {_shown(data)}") from error
    if not isinstance(value, Mapping):
        raise UnreadableChunkError(f"not a JSON object: {_shown(data)}")
    failure = value.get("error") or (value if value.get("object") == "error" else None)
    if failure:
        return Chunk(error=failure if isinstance(failure, Mapping) else {"message": str(failure)})
    choices = value.get("choices")
    listed = choices if isinstance(choices, list) else []
    choice: Mapping[str, object] = next((entry for entry in listed if _is_first(entry)), {})
    usage = _usage(value.get("usage")) or _usage(choice.get("usage"))
    delta, message = choice.get("delta"), choice.get("message")
    said = delta if isinstance(delta, Mapping) else message if isinstance(message, Mapping) else {}
    field = next((name for name in REASONING_FIELDS if said.get(name)), None)
    thought, answer = _split(said.get("content"))
    finish = choice.get("finish_reason")
    return Chunk(
        reasoning=_joined(said.get(field)) if field is not None else thought,
        reasoning_field=field,
        content=answer + _joined(said.get("refusal")),
        calls=_calls(said),
        whole=said is message,
        finish=finish if isinstance(finish, str) and finish else None,
        usage=usage,
    )


def _is_first(choice: object) -> bool:
    return isinstance(choice, Mapping) and choice.get("index") in (0, None)


def _calls(said: Mapping[str, object]) -> tuple[object, ...]:
    calls, legacy = said.get("tool_calls"), said.get("function_call")
    if isinstance(calls, list):
        return tuple(calls)
    if isinstance(calls, Mapping):
        return (calls,)
    return ({"index": 0, "function": legacy},) if isinstance(legacy, Mapping) else ()


def _split(content: object) -> tuple[str, str]:
    """Reasoning and answer of a `content`: a string, or parts of several types."""
    if not isinstance(content, list):
        return "", _joined(content)
    thought: list[str] = []
    answer: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        (thought if kind in ("thinking", "reasoning") else answer).append(_joined(part))
    return "".join(thought), "".join(answer)


def _joined(value: object) -> str:
    match value:
        case str():
            return value
        case list():
            return "".join(_joined(part) for part in value)
        case {"text": str(text)}:
            return text
        case {"thinking": part} | {"content": part}:
            return _joined(part)
    return ""


def _usage(value: object) -> GenerationUsage | None:
    if not isinstance(value, Mapping) or not value:
        return None
    details = value.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    if cached is None:
        cached = value.get("prompt_cache_hit_tokens", value.get("cached_tokens"))
    prompt = _count(value.get("prompt_tokens"))
    output = _count(value.get("completion_tokens"))
    return GenerationUsage(prompt, min(_count(cached), prompt), output, counted=prompt > 0)


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    return value if 0 <= value <= _MOST_TOKENS else 0


def _shown(data: str) -> str:
    return repr(data if len(data) <= 80 else data[:77] + "...")
