"""Raw parameters of one call -> arguments checked against the tool's schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dsv4_agent.dsml.events import ParsedCall, Repair, RepairKind
from dsv4_agent.dsml.schema import SchemaError, ToolSchema, decode_json

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
    if tools is not None and schema is None:
        known = ", ".join(tools) or "none"
        problems = [f"Unknown tool {_shown(call.name)}. Declared tools: {known}."]
    elif problems:
        usage = f" {schema.usage()}" if schema else ""
        problems = [f"{call.name}: {'; '.join(problems)}.{usage}"]
    elif schema is not None:
        try:
            arguments, mended = schema.coerce(arguments, written)
            repairs.extend(mended)
        except SchemaError as error:
            problems = [str(error)]
    parsed = ParsedCall(
        name=call.name,
        arguments=dict(arguments),
        raw="".join(call.raw),
        from_reasoning=call.from_reasoning,
        error=problems[0] if problems else None,
    )
    return parsed, tuple(repairs)


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
