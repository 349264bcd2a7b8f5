"""Raw parameters of one call -> arguments checked against the tool's schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from dsv4_agent.dsml.events import ParsedCall, Repair, RepairKind
from dsv4_agent.dsml.schema import SchemaError, ToolSchema, decode_json, finite, refuse_constant

Tools = Mapping[str, ToolSchema]


@dataclass(frozen=True, slots=True)
class RawParameter:
    """A parameter as written; `string` is the attribute's value, None where it is missing."""

    key: str
    string: bool | None
    text: str


@dataclass(slots=True)
class RawCall:
    """A call while it is being read."""

    name: str
    from_reasoning: bool = False
    parameters: list[RawParameter] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)


def build_call(call: RawCall, tools: Tools | None) -> tuple[ParsedCall, tuple[Repair, ...]]:
    """The finished call; what can't be mended is in its `error`. `tools=None` checks no names or types."""
    repairs: list[Repair] = []
    problems: list[str] = []
    schema = None if tools is None else tools.get(call.name)
    arguments, written = _decoded(call, schema, repairs, problems)
    if stray := "".join(call.stray).strip():
        body = decode_json(stray)
        if not call.parameters and isinstance(body, dict):
            arguments, written = body, {}
            repairs.append(Repair(RepairKind.JSON_BODY, "arguments were written as one JSON object"))
        else:
            problems.append(f"unexpected text inside the call: {_shown(stray)}")
    arguments, error = _checked(call.name, arguments, written, tools, problems, repairs)
    parsed = ParsedCall(
        name=call.name,
        arguments=dict(arguments),
        raw="".join(call.raw),
        from_reasoning=call.from_reasoning,
        error=error,
    )
    return parsed, tuple(repairs)


def build_json_call(
    id: str, name: str, text: str, tools: Tools | None
) -> tuple[ParsedCall, tuple[Repair, ...]]:
    """The call of a chat server, which has turned the arguments into JSON text; no text is no arguments.

    Checked as by `build_call`. Arguments that were encoded twice are decoded twice.
    """
    repairs: list[Repair] = []
    problems: list[str] = []
    arguments: dict[str, object] = {}
    try:
        value = _decode_object(text) if text.strip() else {}
        if isinstance(value, str):
            value = _decode_object(value)
            repairs.append(Repair(RepairKind.JSON_BODY, f"{name}: the arguments were encoded twice"))
        if isinstance(value, dict):
            arguments = value
        elif value is not None:
            problems.append(f"the arguments must be a JSON object, not {_shown(text)}")
    except (ValueError, RecursionError) as error:
        cause = "they are nested too deeply" if isinstance(error, RecursionError) else str(error)
        problems.append(f"the arguments are not a valid JSON object: {cause}; they were {_shown(text)}")
    arguments, error_text = _checked(name, arguments, {}, tools, problems, repairs)
    return ParsedCall(name, arguments, text, error=error_text, id=id), tuple(repairs)


def _checked(
    name: str,
    arguments: dict[str, object],
    written: Mapping[str, str],
    tools: Tools | None,
    problems: list[str],
    repairs: list[Repair],
) -> tuple[dict[str, object], str | None]:
    """The arguments fitted to the tool's schema, or as they are and what is wrong."""
    schema = None if tools is None else tools.get(name)
    if tools is not None and schema is None:
        known = ", ".join(tools) or "none"
        return arguments, f"Unknown tool {_shown(name)}. Declared tools: {known}."
    if problems:
        usage = f" {schema.usage()}" if schema else ""
        return arguments, f"{name}: {'; '.join(problems)}.{usage}"
    if schema is None:
        return arguments, None
    try:
        fitted, mended = schema.coerce(arguments, written)
    except SchemaError as error:
        return arguments, str(error)
    repairs.extend(mended)
    return fitted, None


def _decode_object(text: str) -> object:
    """A JSON value; raw line breaks in strings pass, what can't be written as text again does not."""
    value: object = json.loads(
        text,
        strict=False,
        object_pairs_hook=_unambiguous,
        parse_constant=refuse_constant,
        parse_float=finite,
    )
    json.dumps(value, ensure_ascii=False).encode()
    return value


def _unambiguous(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found and found[key] != value:
            raise ValueError(f"{_shown(key)} is given more than once")
        found[key] = value
    return found


def _decoded(
    call: RawCall, schema: ToolSchema | None, repairs: list[Repair], problems: list[str]
) -> tuple[dict[str, object], dict[str, str]]:
    values: dict[str, object] = {}
    written: dict[str, str] = {}
    for parameter in call.parameters:
        key, text = parameter.key, parameter.text
        if key in written:
            if written[key] == text:
                repairs.append(Repair(RepairKind.DUPLICATE_PARAMETER, f"'{key}' was given twice, alike"))
            else:
                problems.append(f"argument '{key}' is given more than once")
            continue
        written[key] = text
        wants_string = schema is not None and schema.wants_string(key)
        if parameter.string or (parameter.string is None and wants_string):
            values[key] = text
            continue
        value = decode_json(text)
        if isinstance(value, str) and value is text and parameter.string is False:
            typed = schema is not None and key in schema.properties
            if wants_string:
                repairs.append(Repair(RepairKind.COERCED, f"'{key}': plain text marked as JSON"))
            elif not typed:
                problems.append(f"argument '{key}' is not valid JSON: {_shown(text)}")
        values[key] = value
    return values, written


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
