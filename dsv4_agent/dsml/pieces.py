"""The parts of a prompt that all encoders write: tools section, response format, blocks of calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dsv4_agent.dsml.dialect import Dialect, Encoder, tags_of
from dsv4_agent.dsml.errors import InvalidMessageError, ToolShapeError
from dsv4_agent.dsml.segments import SegmentBuilder
from dsv4_agent.dsml.templates import JSON_OBJECT_FORMAT, RESPONSE_FORMAT_HEAD, TOOLS_HEAD, TOOLS_TAIL

_JSON_MODE = {"type": "json_object"}


def write_tools(out: SegmentBuilder, tools: Sequence[Mapping[str, Any]], dialect: Dialect) -> None:
    """The tools section. Each tool is the OpenAI `function` object: name, description, parameters."""
    tags = tags_of(dialect)
    out.structure(
        TOOLS_HEAD.replace("{calls}", tags.calls)
        .replace("{invoke}", tags.invoke)
        .replace("{parameter}", tags.parameter)
    )
    out.content("\n".join(to_json(tool) for tool in tools))
    out.structure(TOOLS_TAIL)


def write_response_format(
    out: SegmentBuilder, schema: object, dialect: Dialect, encoder: Encoder = Encoder.CHECKPOINT
) -> None:
    """The response format section for any JSON value; the hosted V4 words plain JSON mode differently."""
    if encoder is Encoder.API and dialect is not Dialect.V41 and schema == _JSON_MODE:
        out.structure(JSON_OBJECT_FORMAT)
        return
    out.structure(RESPONSE_FORMAT_HEAD)
    out.content(to_json(schema))


def to_json(value: object) -> str:
    """JSON as the official encoder dumps it: Python's separators, no ASCII escapes, key order kept."""
    return json.dumps(value, ensure_ascii=False)


def functions_of(tools: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The `function` objects of tools in the OpenAI shape. Raises `ToolShapeError`."""
    return [_member(tool, "function") for tool in tools]


def write_calls(
    out: SegmentBuilder,
    calls: Sequence[Mapping[str, Any]],
    dialect: Dialect,
    encoder: Encoder = Encoder.CHECKPOINT,
) -> None:
    """A whole block of tool calls in the OpenAI shape, with the two newlines before it."""
    tags = tags_of(dialect)
    out.structure(f"\n\n<{tags.calls}>\n")
    for call in calls:
        function = _member(call, "function")
        name, arguments = _member(function, "name"), _member(function, "arguments")
        out.structure(f'<{tags.invoke} name="')
        out.content(str(name))
        out.structure('">\n')
        pairs = _arguments(arguments, dialect, encoder)
        for key, value in pairs.items():
            text = value if isinstance(value, str) else to_json(value)
            out.structure(f'<{tags.parameter} name="')
            out.content(key)
            out.structure(f'" string="{"true" if isinstance(value, str) else "false"}">')
            out.content(text)
            out.structure(f"</{tags.parameter}>\n")
        if not pairs and not (encoder is Encoder.API and dialect is not Dialect.V41):
            out.structure("\n")
        out.structure(f"</{tags.invoke}>\n")
    out.structure(f"</{tags.calls}>")


def _arguments(arguments: object, dialect: Dialect, encoder: Encoder) -> dict[str, Any]:
    decoded = _decode(arguments)
    if dialect is Dialect.V41:
        decoded = _decode(decoded)
        return decoded if isinstance(decoded, dict) else {"arguments": arguments}
    if not isinstance(arguments, str) or decoded is arguments or encoder is Encoder.API:
        return decoded if isinstance(decoded, dict) and decoded is not arguments else {"arguments": arguments}
    if isinstance(decoded, dict):
        return decoded
    raise InvalidMessageError(
        f"'{type(decoded).__name__}' object has no attribute 'items'"
        " (tool call arguments must be a JSON object, as a string)"
    )


def _decode(value: object) -> object:
    """The JSON value of a string, or the argument itself where it is no JSON string."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _member(mapping: object, key: str) -> Any:
    if isinstance(mapping, Mapping) and key in mapping:
        return mapping[key]
    raise ToolShapeError(
        f"'{key}' is missing: tools and tool calls are written as "
        '{"type": "function", "function": {...}}'
    )
