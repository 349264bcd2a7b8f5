"""What can be learned from a request that a server refuses: which field to leave out or how to write it."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from dsv4_agent.backends.chat_server.manners import REASONING_FIELDS, Manners

_OPTIONAL: Final = (
    "reasoning_content",
    "stream_options",
    "chat_template_kwargs",
    "reasoning_effort",
    "temperature",
    "top_p",
    "min_p",
    "seed",
    "thinking",
    "reasoning",
)
"""Longer names first: `reasoning` is a part of others."""
_UNWANTED: Final = re.compile(
    r"unsupported|not supported|does ?n[o']t support|unknown|unrecognized|unexpected|not permitted"
    r"|not allowed|extra[ _](?:inputs|fields|forbidden)|additional propert|invalid (?:field|parameter)"
    r"|invalid argument|forbidden|no such field|only the default|is not a valid",
    re.IGNORECASE,
)
_OWED: Final = re.compile(r"must be (?:passed|provided|sent|included)|is (?:missing|required)", re.IGNORECASE)
_MOST: Final = re.compile(
    r"(?:at most|less than or equal to|<=|range of max_tokens (?:is|should be) \[1,"
    r"|maximum(?: value)?(?: of| is)?)\s*(\d{1,12})",
    re.IGNORECASE,
)
_CONTEXT: Final = re.compile(r"context (?:length|window|size) (?:is|of) (?:only )?(\d{1,12})", re.IGNORECASE)
_PROMPT: Final = re.compile(
    r"(\d{1,12}) (?:input tokens|tokens? (?:from|in) the (?:input|messages|prompt)|in the messages)",
    re.IGNORECASE,
)
_PARTS: Final = re.compile(r"(\d{1,12}) of (?:text|tool|image) input", re.IGNORECASE)
"""OpenRouter's count of a prompt."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """How to ask next time. `told` is for the user; `room` bounds the answer of this one request."""

    manners: Manners
    told: str | None = None
    room: int | None = None


def lesson(message: str, manners: Manners, sent: Collection[str]) -> Lesson | None:
    """What a refusal teaches; None where asking again would be refused again.

    `sent` are the names of the fields that the request had, those of messages included.
    """
    if (context := _CONTEXT.search(message)) and (prompt := _prompt_tokens(message)) is not None:
        room = int(context[1]) - prompt
        return Lesson(manners, room=room) if room > 0 else None
    if "max_completion_tokens" in message and manners.max_tokens != "max_completion_tokens":
        return Lesson(replace(manners, max_tokens="max_completion_tokens"))
    if "max_tokens" in message or "max_completion_tokens" in message:
        most = _MOST.search(message)
        known = manners.most_tokens
        if most is None or not int(most[1]) or (known is not None and int(most[1]) >= known):
            return None
        return Lesson(replace(manners, most_tokens=int(most[1])))
    field = next((name for name in _OPTIONAL if re.search(rf"\b{name}\b", message)), None)
    if field in REASONING_FIELDS and _OWED.search(message):
        return _owing(manners)
    if field is None or field not in sent or not _UNWANTED.search(message):
        return None
    return Lesson(manners.without(field), f"the server refuses {field}, so it is left out from now on")


def _prompt_tokens(message: str) -> int | None:
    """How long the server says that the prompt is."""
    if found := _PROMPT.search(message):
        return int(found[1])
    parts = _PARTS.findall(message)
    return sum(map(int, parts)) if parts else None


def _owing(manners: Manners) -> Lesson | None:
    """The server wants the reasoning of past turns back."""
    if manners.owes_reasoning:
        return None
    names = (*manners.reasoning, "reasoning_content") if not manners.reasoning else manners.reasoning
    return Lesson(replace(manners, reasoning=names, owes_reasoning=True))


_REMEDIES: Final = {
    "enable-auto-tool-choice": "start vLLM with --enable-auto-tool-choice --tool-call-parser deepseek_v4",
    "--jinja": "start llama-server with --jinja",
    "not support tools": 'take a model that calls tools, or set protocol = "tokens"',
    "context length": "use /compact, a new session, or a server with a larger window",
}


def remedy(message: str) -> str | None:
    """What helps against a refusal that no other request avoids."""
    return next((help for words, help in _REMEDIES.items() if words in message), None)
