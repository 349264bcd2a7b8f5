"""Completions as the hosted API reads them (DeepSeek's `deepseek-recipe`): lenient, and blind to schemas.

Kept apart from `parse`, which the agent uses: this one ends values by construction rules only, hands out
unfinished JSON, and drops the rest of an answer that merely mentions the marker. It is here to tell what the
API would have said, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from dsv4_agent.dsml import dialect as wire
from dsv4_agent.dsml.dialect import Dialect, tags_of
from dsv4_agent.dsml.events import FinishReason
from dsv4_agent.dsml.patterns import MARK_DSML, MARK_END_THINK, spelled
from dsv4_agent.dsml.vocabulary import Vocabulary

_BLOCK = "<" + MARK_DSML
_CLOSER = "</" + MARK_DSML
_INVOKE = 'invoke name="'
_PARAMETER = "parameter name="
_FLAGS = ('true">', 'false">')
_ENDS = tuple(f"</{tags_of(dialect).calls}>".replace(wire.DSML, MARK_DSML) for dialect in Dialect)


@dataclass(frozen=True, slots=True)
class HostedMessage:
    """What the API answers; `tool_calls` are (name, JSON text, possibly unfinished)."""

    reasoning_content: str
    content: str
    tool_calls: tuple[tuple[str, str], ...]
    finish_reason: str


def parse_hosted_ids(
    ids: Iterable[int], vocabulary: Vocabulary, *, thinking: bool, finish: FinishReason = FinishReason.STOP
) -> HostedMessage:
    """Read token ids; only the real ids of `</think>` and `｜DSML｜` are special."""
    marks = {
        vocabulary.id_of(wire.DSML): MARK_DSML.encode("utf-8", "surrogatepass"),
        vocabulary.id_of(wire.END_THINK): MARK_END_THINK.encode("utf-8", "surrogatepass"),
    }
    data = b"".join(marks.get(token_id) or vocabulary.token_bytes(token_id) for token_id in ids)
    return _parse(data.decode("utf-8", "surrogatepass"), thinking, finish)


def parse_hosted_text(
    text: str, *, thinking: bool, finish: FinishReason = FinishReason.STOP
) -> HostedMessage:
    """Read text in which the special tokens are spelt out."""
    marked = text.replace(wire.DSML, MARK_DSML).replace(wire.END_THINK, MARK_END_THINK)
    return _parse(marked, thinking, finish)


def _parse(text: str, thinking: bool, finish: FinishReason) -> HostedMessage:
    start = text.find(_BLOCK)
    prose, block = (text, None) if start < 0 else (_led(text[:start]), text[start + len(_BLOCK) :])
    reasoning = ""
    if thinking:
        reasoning, closed, prose = prose.partition(MARK_END_THINK)
        reasoning = reasoning.lstrip("\n")
        reasoning = reasoning.rstrip("\n") if closed else reasoning
    content = prose.replace(MARK_END_THINK, "").lstrip("\n")
    calls = () if block is None else tuple(_calls(block))
    ended = "tool_calls" if calls and finish is FinishReason.STOP else finish.value
    return HostedMessage(spelled(reasoning), spelled(content), calls, ended)


def _led(text: str) -> str:
    """Prose without the line breaks before a block; one stays behind a `<`, as the API's matcher has it."""
    stripped = text.rstrip("\n")
    return stripped + "\n" if stripped.endswith("<") and stripped != text else stripped


def _calls(text: str) -> Iterable[tuple[str, str]]:
    position = 0
    while True:
        found = text.find(_INVOKE, position)
        if found < 0 or any(text.find(end, position, found) >= 0 for end in _ENDS):
            return
        quote = text.find('"', found + len(_INVOKE))
        if quote < 0:
            return
        name = spelled(text[found + len(_INVOKE) : quote])
        position, arguments, finished = _arguments(text, quote + 1)
        yield name, spelled(arguments)
        if not finished:
            return


def _arguments(text: str, position: int) -> tuple[int, str, bool]:
    """Position behind the call, its JSON text, and whether the call was closed."""
    parts: list[str] = []
    while True:
        found = text.find(_PARAMETER, position)
        closer = text.find(_CLOSER, position)
        if closer >= 0 and (found < 0 or closer < found):
            return closer + len(_CLOSER), "".join(parts or ["{"]) + "}", True
        if found < 0:
            return len(text), "".join(parts), False
        parts.append(", " if parts else "{")
        key_start = found + len(_PARAMETER)
        key_end = text.find(" ", key_start)
        if key_end < 0:
            parts.append(text[key_start:])
            return len(text), "".join(parts), False
        parts.append(f"{text[key_start:key_end]}: ")
        hits = [(hit, flag) for flag in _FLAGS if (hit := text.find(flag, key_end)) >= 0]
        if not hits:
            return len(text), "".join(parts), False
        hit, flag = min(hits)
        value_start = hit + len(flag)
        value_end = text.find(_CLOSER, value_start)
        value = spelled(text[value_start : value_end if value_end >= 0 else len(text)])
        if flag == _FLAGS[0]:
            quoted = json.dumps(value, ensure_ascii=False)
            parts.append(quoted if value_end >= 0 else quoted[:-1])
        else:
            parts.append(value)
        if value_end < 0:
            return len(text), "".join(parts), False
        position = value_end + len(_CLOSER)
