"""The official parser of completions, as strict as it is, with its own error texts. For conformance."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from dsv4_agent.dsml import dialect as wire
from dsv4_agent.dsml.dialect import Dialect, Tags, Thinking, tags_of
from dsv4_agent.dsml.errors import StrictParseError

# `$` also matches before a last line break: that is how the blank line of a call without parameters passes.
_NAME = re.compile(r'^\s*name="(.*?)">\n$', re.DOTALL)
_PARAMETER = re.compile(r'^ name="(.*?)" string="(true|false)">(.*?)<$', re.DOTALL)
_FORBIDDEN = (wire.BOS, wire.EOS, wire.THINK, wire.END_THINK, wire.DSML)


def parse_completion(text: str, thinking: Thinking | str, dialect: Dialect = Dialect.V4) -> dict[str, Any]:
    """A completion (its EOS included) -> `{"role", "content", "reasoning_content", "tool_calls"}`.

    Arguments are the textual JSON the official parser builds: values of `string="false"` are not checked.
    Raises `StrictParseError`.
    """
    tags = tags_of(dialect)
    opening = f"\n\n<{tags.calls}"
    position, reasoning = 0, ""
    if thinking == Thinking.THINKING:
        position, reasoning, stop = _read(text, 0, (wire.END_THINK, opening))
        _require(stop == wire.END_THINK, "Invalid thinking format: missing </think>")
    position, content, stop = _read(text, position, (wire.EOS, opening))
    calls: list[dict[str, str]] = []
    if stop == opening:
        position, calls = _calls(text, position, tags)
        position, after, stop = _read(text, position, (wire.EOS,))
        _require(not after, "Unexpected content after tool calls")
    else:
        _require(stop == wire.EOS, "Invalid format: missing EOS token")
    _require(position == len(text) and stop in (wire.EOS, None), "Unexpected content at end")
    for token in _FORBIDDEN:
        _require(
            token not in content and token not in reasoning, f"Unexpected special token '{token}' in content"
        )
    return {
        "role": "assistant",
        "content": content,
        "reasoning_content": reasoning,
        "tool_calls": [{"type": "function", "function": call} for call in calls],
    }


def _read(text: str, start: int, stops: Sequence[str]) -> tuple[int, str, str | None]:
    """Position behind the first stop, the text before it, and which stop it was."""
    hits = [(found, stop) for stop in stops if (found := text.find(stop, start)) >= 0]
    if not hits:
        return len(text), text[start:], None
    found, stop = min(hits, key=lambda hit: hit[0])
    return found + len(stop), text[start:found], stop


def _calls(text: str, start: int, tags: Tags) -> tuple[int, list[dict[str, str]]]:
    invoke, close = f"<{tags.invoke}", f"</{tags.calls}>"
    parameter, invoke_close = f"<{tags.parameter}", f"</{tags.invoke}"
    calls: list[dict[str, str]] = []
    position = start
    while position < len(text):
        position, gap, stop = _read(text, position, (invoke, close))
        _require(gap == ">\n", f"Tool call format error: expected '>\\n' but got '{gap}'")
        if stop == close:
            return position, calls
        _require(stop is not None, "Missing special token in tool calls")
        position, head, stop = _read(text, position, (parameter, invoke_close))
        name = _NAME.match(head)
        name = _NAME.search(head)
        if name is None:
            raise StrictParseError(f"Tool name format error: '{head}'")
        arguments: dict[str, tuple[str, str]] = {}
        while stop == parameter:
            position, body, stop = _read(text, position, (f"/{tags.parameter}",))
            found = _PARAMETER.search(body) if body.endswith(("<", "<\n")) else None
            if found is None:
                raise StrictParseError(f"Parameter format error: '{body}'")
            key, string, value = found.groups()
            _require(key not in arguments, f"Duplicate parameter name: '{key}'")
            arguments[key] = (value, string)
            position, gap, stop = _read(text, position, (parameter, invoke_close))
            _require(gap == ">\n", f"Parameter format error: expected '>\\n' but got '{gap}'")
        calls.append({"name": name.group(1), "arguments": _json(arguments)})
    return position, calls


def _json(arguments: dict[str, tuple[str, str]]) -> str:
    pairs = (
        f"{json.dumps(key, ensure_ascii=False)}: "
        f"{json.dumps(value, ensure_ascii=False) if string == 'true' else value}"
        for key, (value, string) in arguments.items()
    )
    return "{" + ", ".join(pairs) + "}"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise StrictParseError(message)
