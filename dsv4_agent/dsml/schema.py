"""A tool's JSON schema, as far as calls are checked and mended by it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dsv4_agent.dsml.events import Repair, RepairKind

_WRAPPERS = ("arguments", "input", "parameters", "params", "args")
_INTEGER = re.compile(r"[+-]?\d{1,400}")
_MAX_DEPTH = 32


class SchemaError(ValueError):
    """Arguments do not fit the tool; the text is meant for the model and names every problem."""


class _Misfit(Exception):
    """A single value does not fit its schema; the text says what was expected."""


@dataclass(frozen=True, slots=True)
class ToolSchema:
    """Name and parameters of a declared tool."""

    name: str
    parameters: Mapping[str, Any]

    @classmethod
    def from_function(cls, function: Mapping[str, Any]) -> ToolSchema:
        """From `{"name", "description", "parameters"}` (or the OpenAI wrapping of it)."""
        inner = function.get("function", function)
        return cls(str(inner["name"]), inner.get("parameters") or {})

    @property
    def properties(self) -> Mapping[str, Any]:
        """Declared parameters and their schemas."""
        properties = self.parameters.get("properties")
        return properties if isinstance(properties, Mapping) else {}

    @property
    def required(self) -> tuple[str, ...]:
        """Names of the parameters that a call must give."""
        return tuple(self.parameters.get("required") or ())

    @property
    def open_ended(self) -> bool:
        """Whether undeclared parameters are welcome."""
        extra = self.parameters.get("additionalProperties")
        if extra is None:
            return "properties" not in self.parameters and "type" not in self.parameters
        return extra is not False

    def wants_string(self, name: str) -> bool:
        """Whether a parameter is written `string="true"` when its value is text."""
        return "string" in types_of(self.properties.get(name, {}))

    def coerce(
        self, arguments: Mapping[str, object], raw: Mapping[str, str] | None = None
    ) -> tuple[dict[str, object], tuple[Repair, ...]]:
        """Arguments fitted to the schema, and what had to be mended; raises `SchemaError`.

        `raw` holds values as the model wrote them: where the schema asks for a string and the model wrote
        JSON, its very text is the value.
        """
        repairs: list[Repair] = []
        given = self._unwrapped(arguments, repairs)
        raw = raw if raw is not None and given is arguments else {}
        problems: list[str] = []
        result: dict[str, object] = {}
        for key, value in given.items():
            schema = self.properties.get(key)
            if schema is None:
                if self.open_ended:
                    result[key] = value
                else:
                    problems.append(f"unknown argument '{key}'")
                continue
            types = types_of(schema)
            if value is None and key not in self.required and types and "null" not in types:
                repairs.append(Repair(RepairKind.DROPPED_NULL, f"null for optional '{key}' dropped"))
                continue
            try:
                fitted = fit(value, schema, raw.get(key))
            except _Misfit as misfit:
                problems.append(f"argument '{key}' {misfit}")
                continue
            if fitted is not value:
                repairs.append(Repair(RepairKind.COERCED, f"'{key}': {_kind(value)} -> {_kind(fitted)}"))
            result[key] = fitted
        problems.extend(f"missing required argument '{key}'" for key in self.required if key not in given)
        if problems:
            raise SchemaError(f"{self.name}: {'; '.join(problems)}. {self.usage()}")
        return result, tuple(repairs)

    def usage(self) -> str:
        """One line that tells the model what the tool takes."""
        if not self.properties:
            return f"{self.name} takes no arguments."
        parts = [
            f"{key} ({'/'.join(types_of(schema)) or 'any'}{'' if key in self.required else ', optional'})"
            for key, schema in self.properties.items()
        ]
        return f"{self.name} takes: {', '.join(parts)}."

    def _unwrapped(self, arguments: Mapping[str, object], repairs: list[Repair]) -> Mapping[str, object]:
        if len(arguments) != 1:
            return arguments
        ((key, value),) = arguments.items()
        if key not in _WRAPPERS or key in self.properties or not self.properties:
            return arguments
        inner = decode_json(value) if isinstance(value, str) else value
        if not isinstance(inner, dict):
            return arguments
        repairs.append(Repair(RepairKind.WRAPPED_ARGUMENTS, f"all arguments were inside '{key}'"))
        return inner


def types_of(schema: object) -> tuple[str, ...]:
    """The JSON types a schema names, through `anyOf`/`oneOf`; empty when it does not say."""
    if not isinstance(schema, Mapping):
        return ()
    declared = schema.get("type")
    if isinstance(declared, str):
        return (declared,)
    if isinstance(declared, list):
        return tuple(str(item) for item in declared)
    options = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(options, list):
        found = [types_of(option) for option in options]
        return tuple(dict.fromkeys(name for names in found for name in names)) if all(found) else ()
    values = schema.get("enum")
    if isinstance(values, list) and values and all(isinstance(item, str) for item in values):
        return ("string",)
    return ()


def decode_json(text: str) -> object:
    """The JSON value of a text; the text itself where it is none (NaN, 1e999, endless nesting are none)."""
    try:
        return json.loads(text, parse_constant=refuse_constant, parse_float=finite)
    except (ValueError, RecursionError):
        return text


def fit(value: object, schema: object, raw: str | None = None, depth: int = 0) -> object:
    """A value made to fit its schema without changing what it says; raises `_Misfit`."""
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return value
    types = types_of(schema)
    if types and not any(_is(value, name) for name in types):
        value = _converted(value, types, raw)
    options = schema.get("enum")
    if isinstance(options, list) and value not in options:
        raise _Misfit(f"must be one of {', '.join(json.dumps(option) for option in options)}")
    match value:
        case list() if "items" in schema:
            return _same(value, [fit(item, schema["items"], None, depth + 1) for item in value])
        case dict() if isinstance(schema.get("properties"), Mapping):
            inner = schema["properties"]
            missing = [key for key in schema.get("required") or () if key not in value]
            if missing:
                raise _Misfit(f"lacks {', '.join(repr(key) for key in missing)}")
            return _same(
                value, {key: fit(item, inner.get(key), None, depth + 1) for key, item in value.items()}
            )
    return value


def _same(before: Any, after: Any) -> Any:
    """The object itself when fitting changed nothing, so that identity tells of a repair."""
    pairs = (
        zip(before.values(), after.values(), strict=True)
        if isinstance(before, dict)
        else (zip(before, after, strict=True))
    )
    return before if all(old is new for old, new in pairs) else after


def _is(value: object, name: str) -> bool:
    match name:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "array":
            return isinstance(value, list)
        case "object":
            return isinstance(value, dict)
        case "null":
            return value is None
    return True


def _converted(value: object, types: tuple[str, ...], raw: str | None) -> object:
    if isinstance(value, float) and "integer" in types and value.is_integer():
        return int(value)
    if isinstance(value, str):
        text = value.strip()
        decoded: object = text.lower() == "true" if text.lower() in ("true", "false") else decode_json(text)
        if _INTEGER.fullmatch(text):
            decoded = int(text)
        if isinstance(decoded, float) and "integer" in types and decoded.is_integer():
            decoded = int(decoded)
        if not isinstance(decoded, str) and any(_is(decoded, name) for name in types):
            return decoded
    elif "string" in types and value is not None:
        return raw if raw is not None else json.dumps(value, ensure_ascii=False)
    shown = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    raise _Misfit(f"must be {' or '.join(types)}, not {shown}")


def refuse_constant(constant: str) -> object:
    """What a parser of JSON makes of NaN and Infinity, which Python would read. Raises `ValueError`."""
    raise ValueError(f"{constant} is not JSON")


def finite(text: str) -> float:
    """A number of a JSON text. Raises `ValueError` for one that could only be written again as Infinity."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is too large for a number")
    return number


def _kind(value: object) -> str:
    match value:
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"
    return "null"
