"""What the model is shown of each tool. A change here changes every prompt prefix and what Nano learned."""

from __future__ import annotations

import pytest

from dsv4_prompts import tool_description
from dsv4_tools.base import Effect
from dsv4_tools.registry import default_tools
from dsv4_tools.schema import parameters_schema

S, I, B, L = "string", "integer", "boolean", "array"  # noqa: E741
FROZEN: dict[str, tuple[Effect, dict[str, str], list[str]]] = {
    "shell": (Effect.EXECUTE, {"command": S, "timeout": I}, ["command"]),
    "read": (Effect.READ, {"path": S, "offset": I, "limit": I}, ["path"]),
    "write": (Effect.WRITE, {"path": S, "content": S}, ["path", "content"]),
    "edit": (
        Effect.WRITE,
        {"path": S, "old_string": S, "new_string": S, "replace_all": B},
        ["path", "old_string", "new_string"],
    ),
    "grep": (
        Effect.READ,
        {"pattern": S, "path": S, "glob": S, "literal": B, "max_results": I},
        ["pattern"],
    ),
    "glob": (Effect.READ, {"pattern": S, "path": S}, ["pattern"]),
    "outline": (Effect.READ, {"path": "string"}, ["path"]),
    "symbols": (Effect.READ, {"name": "string", "path": "string"}, ["name"]),
    "git_status": (Effect.READ, {}, []),
    "git_diff": (Effect.READ, {"path": S, "staged": B}, []),
    "git_log": (Effect.READ, {"limit": I, "path": S}, []),
    "git_show": (Effect.READ, {"revision": S}, ["revision"]),
    "git_commit": (Effect.WRITE, {"message": S, "paths": L}, ["message"]),
}


def test_the_tools_and_their_order() -> None:
    assert list(default_tools()) == list(FROZEN)


@pytest.mark.parametrize("name", FROZEN)
def test_schema(name: str) -> None:
    effect, types, required = FROZEN[name]
    tool = default_tools()[name]
    schema = parameters_schema(tool.Args)
    assert tool.effect is effect
    assert {key: value["type"] for key, value in schema["properties"].items()} == types
    assert list(schema) == ["type", "properties", "required"]
    assert schema["required"] == required
    for value in schema["properties"].values():
        assert 5 < len(value["description"]) < 90
        assert set(value) <= {"type", "description", "items"}
    assert tool_description(name)


def test_only_keeps_the_named_parameters_without_descriptions() -> None:
    edit = default_tools()["edit"]
    assert parameters_schema(edit.Args, only={"new_string", "path"}) == {
        "type": "object",
        "properties": {"path": {"type": "string"}, "new_string": {"type": "string"}},
        "required": ["path", "new_string"],
    }
