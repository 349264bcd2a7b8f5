"""A turn that a chat server has read for us: reasoning, answer and calls come apart, and calls have ids.

There is no sampled text to keep, so the message is the truth of such a turn; its segments are a projection in
the wire format, for display and export.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from dsv4_agent.dsml.calls import Tools, build_json_call
from dsv4_agent.dsml.dialect import END_THINK, EOS, Dialect
from dsv4_agent.dsml.events import ParsedCall, ParsedMessage
from dsv4_agent.dsml.pieces import write_calls
from dsv4_agent.dsml.segments import Segment, SegmentBuilder
from dsv4_agent.session.transcript import Entry

_ID_LIMIT = 128


def with_served(message: ParsedMessage, served: Sequence[ParsedCall], turn: int) -> ParsedMessage:
    """The message with the server's calls beside those that leaked into the answer, each with its own id.

    A leaked call that the server has read as well counts once. Where the server has read calls, what could
    not be read of the leaked ones was its own business.
    """
    leaked = [call for call in message.calls if not any(_same(call, other) for other in served)]
    calls: list[ParsedCall] = []
    taken: set[str] = set()
    for index, call in enumerate((*leaked, *served)):
        id = call.id if call.id is not None and _is_usable(call.id) else ""
        if not id or id in taken:
            id = f"call_{turn}_{index}"
        taken.add(id)
        calls.append(replace(call, id=id))
    return replace(message, calls=tuple(calls), errors=() if served else message.errors)


def assistant_message(message: ParsedMessage) -> dict[str, object]:
    """The message as a chat message.

    A call has `id`, `name`, `arguments` (as they ran), `sent` where the server's JSON text says something
    else than these, and `error` where it must not run.
    """
    shown: dict[str, object] = {"role": "assistant", "content": message.content}
    if message.reasoning:
        shown["reasoning_content"] = message.reasoning
    if message.calls:
        shown["tool_calls"] = [_call(call) for call in message.calls]
    return shown


def turn_segments(message: ParsedMessage, dialect: Dialect, *, thinking: bool, closed: bool) -> list[Segment]:
    """The turn in the wire format, as if it had been sampled. An unclosed one ends where its text does."""
    out = SegmentBuilder()
    out.content(message.reasoning)
    if thinking and (closed or message.content or message.calls):
        out.structure(END_THINK)
    out.content(message.content)
    if message.calls:
        write_calls(out, [{"function": _function(call)} for call in message.calls], dialect)
    if closed:
        out.structure(EOS)
    return out.segments()


def read_back(entry: Entry, tools: Tools) -> ParsedMessage | None:
    """The message of an entry that a chat server's turn left; None for one whose text was sampled."""
    if not entry.messages or all(segment.structure for segment in entry.segments):
        return None
    shown = entry.messages[0]
    stored = shown.get("tool_calls")
    calls = [_read_call(call, tools) for call in (stored if isinstance(stored, list) else [])]
    reasoning, content = str(shown.get("reasoning_content", "")), str(shown.get("content", ""))
    return ParsedMessage(reasoning, content, tuple(calls), truncated=not entry.closed)


def _function(call: ParsedCall) -> dict[str, object]:
    return {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}


def _call(call: ParsedCall) -> dict[str, object]:
    shown: dict[str, object] = {"id": call.id, "name": call.name, "arguments": call.arguments}
    if _says_otherwise(call.raw, call.arguments):
        shown["sent"] = call.raw
    if call.error is not None:
        shown["error"] = call.error
    return shown


def _says_otherwise(text: str, arguments: Mapping[str, object]) -> bool:
    """Whether a text is a JSON object and another one than `arguments`; order counts."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and json.dumps(value) != json.dumps(arguments)


def _read_call(stored: Mapping[str, object], tools: Tools) -> ParsedCall:
    arguments = stored["arguments"]
    text = str(stored.get("sent") or json.dumps(arguments, ensure_ascii=False))
    id, name = str(stored.get("id", "")), str(stored["name"])
    error = stored.get("error")
    if isinstance(error, str):
        known = dict(arguments) if isinstance(arguments, Mapping) else {}
        return ParsedCall(name, known, text, error=error, id=id)
    return build_json_call(id, name, text, tools)[0]


def _same(leaked: ParsedCall, served: ParsedCall) -> bool:
    return leaked.name == served.name and leaked.arguments == served.arguments


def _is_usable(id: str) -> bool:
    return 0 < len(id) <= _ID_LIMIT and id.isascii() and id.isprintable()
