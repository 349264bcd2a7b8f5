"""A tool's arguments as the JSON schema that the model is shown."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel


def parameters_schema(args: type[BaseModel], only: Collection[str] | None = None) -> dict[str, Any]:
    """The flat schema of `args`: type and description of each parameter, and which are required.

    With `only`, just those parameters appear, without descriptions: the shape the built-in model learns.
    Titles, defaults and limits are left out; a call that breaks a limit is told so.
    """
    full = args.model_json_schema()
    definitions = full.get("$defs", {})
    properties: dict[str, Any] = {}
    for name, field in full.get("properties", {}).items():
        if only is not None and name not in only:
            continue
        schema = _flat(field, definitions)
        if only is None and (description := field.get("description")):
            schema["description"] = description
        properties[name] = schema
    required = [name for name in full.get("required", []) if name in properties]
    return {"type": "object", "properties": properties, "required": required}


def _flat(field: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if reference := field.get("$ref"):
        return _flat(definitions[reference.rsplit("/", 1)[-1]], definitions)
    if options := field.get("anyOf"):
        chosen = next(option for option in options if option.get("type") != "null")
        return _flat(chosen, definitions)
    schema: dict[str, Any] = {"type": field["type"]}
    if "enum" in field:
        schema["enum"] = field["enum"]
    if "items" in field:
        schema["items"] = _flat(field["items"], definitions)
    return schema
