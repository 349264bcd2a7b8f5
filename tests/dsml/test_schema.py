"""Arguments fitted to schemas."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsv4_agent.dsml.schema import SchemaError, ToolSchema, decode_json
from tests.dsml.samples import TOOLS


def schema(**properties: Any) -> ToolSchema:
    return ToolSchema("f", {"type": "object", "properties": properties, "required": []})


@pytest.mark.parametrize(
    ("kind", "given_value", "expected"),
    [
        ({"type": "integer"}, "3", 3),
        ({"type": "integer"}, " -7 ", -7),
        ({"type": "integer"}, 3.0, 3),
        ({"type": "number"}, "2.5", 2.5),
        ({"type": "boolean"}, "True", True),
        ({"type": "boolean"}, "false", False),
        ({"type": "array"}, "[1, 2]", [1, 2]),
        ({"type": "object"}, '{"a": 1}', {"a": 1}),
        ({"type": "array", "items": {"type": "integer"}}, ["1", 2], [1, 2]),
        ({"type": "object", "properties": {"n": {"type": "integer"}}}, {"n": "4", "x": 1}, {"n": 4, "x": 1}),
        ({"type": ["number", "null"]}, None, None),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "5", 5),
        ({"type": "string"}, "3", "3"),
        ({}, "3", "3"),
        ({"enum": ["a", "b"]}, "a", "a"),
    ],
)
def test_fitted(kind: dict[str, Any], given_value: object, expected: object) -> None:
    arguments, repairs = schema(x=kind).coerce({"x": given_value})
    assert arguments == {"x": expected}
    assert type(arguments["x"]) is type(expected)
    assert bool(repairs) is (given_value != expected or type(given_value) is not type(expected))


@pytest.mark.parametrize(
    ("kind", "value", "error"),
    [
        ({"type": "integer"}, "3.5", "must be integer, not '3.5'"),
        ({"type": "integer"}, True, "must be integer, not true"),
        ({"type": "boolean"}, "yes", "must be boolean, not 'yes'"),
        ({"type": "array"}, '{"a": 1}', "must be array"),
        ({"type": "number"}, "NaN", "must be number"),
        ({"type": "number"}, "1e999", "must be number"),
        ({"enum": ["a", "b"]}, "c", 'must be one of "a", "b"'),
        ({"type": "object", "required": ["k"], "properties": {"k": {}}}, {}, "lacks 'k'"),
    ],
)
def test_refused(kind: dict[str, Any], value: object, error: str) -> None:
    with pytest.raises(SchemaError) as caught:
        schema(x=kind).coerce({"x": value})
    assert f"argument 'x' {error}" in str(caught.value)


def test_json_where_text_was_asked_for_stays_as_written() -> None:
    arguments, _ = schema(x={"type": "string"}).coerce({"x": {"a": 1}}, {"x": '{"a":1}'})
    assert arguments == {"x": '{"a":1}'}


def test_null_for_an_optional_is_dropped_and_for_a_required_refused() -> None:
    assert TOOLS["edit"].coerce({"path": "a", "count": None})[0] == {"path": "a"}
    with pytest.raises(SchemaError, match="'path' must be string, not null"):
        TOOLS["edit"].coerce({"path": None})


def test_every_problem_is_named() -> None:
    with pytest.raises(SchemaError) as caught:
        TOOLS["edit"].coerce({"count": "x", "depth": 1})
    text = str(caught.value)
    assert "'count' must be integer" in text
    assert "unknown argument 'depth'" in text
    assert "missing required argument 'path'" in text
    assert "path (string)" in text and "count (integer, optional)" in text


def test_unknown_arguments_where_the_schema_is_open() -> None:
    assert ToolSchema("f", {}).coerce({"a": 1})[0] == {"a": 1}
    assert ToolSchema("f", {"type": "object", "additionalProperties": True}).coerce({"a": 1})[0] == {"a": 1}


@pytest.mark.parametrize("wrapper", ["arguments", "input", "parameters"])
@pytest.mark.parametrize("encode", [json.dumps, lambda value: value])
def test_wrapped_arguments(wrapper: str, encode: Any) -> None:
    arguments, repairs = TOOLS["edit"].coerce({wrapper: encode({"path": "a"})})
    assert arguments == {"path": "a"} and len(repairs) == 1


def test_hostile_json_is_only_text() -> None:
    for text in ("[" * 100_000, "1" * 5_000, "NaN", "-Infinity", "1e999", "[-1e999]", '"\ud800', ""):
        decoded = decode_json(text)
        assert decoded == text


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["path", "count", "tags", "options", "zz"]), JSON_VALUES))
def test_coercion_gives_arguments_that_fit_or_an_error(arguments: dict[str, Any]) -> None:
    try:
        fitted, _ = TOOLS["edit"].coerce(arguments)
    except SchemaError as error:
        assert str(error).startswith("edit: ")
        return
    assert isinstance(fitted["path"], str)
    assert isinstance(fitted.get("count", 0), int)
    assert isinstance(fitted.get("tags", []), list)
    again, repairs = TOOLS["edit"].coerce(fitted)
    assert again == fitted and repairs == ()
