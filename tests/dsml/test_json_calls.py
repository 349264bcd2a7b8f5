"""Calls whose arguments come as JSON text: checked by the same rules as calls of the wire format."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsv4_agent.dsml.calls import build_json_call
from dsv4_agent.dsml.events import FinishReason, RepairKind
from dsv4_agent.dsml.parse import parse_text
from dsv4_agent.dsml.schema import ToolSchema

TOOLS = {
    "read": ToolSchema(
        "read",
        {
            "type": "object",
            "properties": {
                "path": {"type": "string"},
                "limit": {"type": "integer"},
                "all": {"type": "boolean"},
                "lines": {"type": "array", "items": {"type": "integer"}},
            },
            "required": ["path"],
        },
    ),
    "status": ToolSchema("status", {"type": "object", "properties": {}}),
}


def read(text: str, name: str = "read") -> tuple[dict[str, object], str | None, list[RepairKind]]:
    call, repairs = build_json_call("id", name, text, TOOLS)
    assert (call.id, call.name, call.raw) == ("id", name, text)
    return call.arguments, call.error, [repair.kind for repair in repairs]


@pytest.mark.parametrize(
    ("text", "arguments", "repairs"),
    [
        ('{"path": "a"}', {"path": "a"}, []),
        ('{"path": "a", "limit": null}', {"path": "a"}, [RepairKind.DROPPED_NULL]),
        ('{"path": "a", "limit": "7"}', {"path": "a", "limit": 7}, [RepairKind.COERCED]),
        ('{"path": "a", "all": "true"}', {"path": "a", "all": True}, [RepairKind.COERCED]),
        ('{"path": "a", "lines": "[1, 2]"}', {"path": "a", "lines": [1, 2]}, [RepairKind.COERCED]),
        ('{"arguments": {"path": "a"}}', {"path": "a"}, [RepairKind.WRAPPED_ARGUMENTS]),
        (json.dumps('{"path": "a"}'), {"path": "a"}, [RepairKind.JSON_BODY]),
        ('{"path": "a\nb"}', {"path": "a\nb"}, []),
        ('{"path": "a", "path": "a"}', {"path": "a"}, []),
    ],
)
def test_what_fits_and_what_is_made_to(
    text: str, arguments: dict[str, object], repairs: list[RepairKind]
) -> None:
    assert read(text) == (arguments, None, repairs)


@pytest.mark.parametrize("text", ["", "  ", "{}", "null"])
def test_no_arguments_in_any_way(text: str) -> None:
    assert read(text, "status")[:2] == ({}, None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"path": "a', "Unterminated string"),
        ('{"path": "a"} {"path": "b"}', "Extra data"),
        ('{"path": "a", "path": "b"}', "'path' is given more than once"),
        ("[1]", "must be a JSON object, not '[1]'"),
        ("7", "must be a JSON object"),
        ('"text"', "not a valid JSON object"),
        ('{"path": Infinity}', "Infinity is not JSON"),
        ('{"path": 1e999}', "1e999 is too large"),
        ('{"path": "a", "limit": 1' + "0" * 5000 + "}", "not a valid JSON object"),
        ("{" * 20 + '"a":' * 100_000, "not a valid JSON object"),
        ('{"path": "\\udc80"}', "not a valid JSON object"),
        ("{}", "missing required argument 'path'"),
        ('{"path": "a", "other": 1}', "unknown argument 'other'"),
    ],
)
def test_what_does_not_fit_is_told_in_a_line_with_the_usage(text: str, says: str) -> None:
    _, error, _ = read(text)
    assert error is not None
    assert says in error
    assert "read takes: path (string)" in error
    assert len(error) < 400


def test_an_unknown_tool_is_told_with_the_known_ones() -> None:
    assert read("{}", "rm")[1] == "Unknown tool 'rm'. Declared tools: read, status."


@given(st.text(max_size=300))
def test_no_text_breaks_it(text: str) -> None:
    call, _ = build_json_call("id", "read", text, TOOLS)
    json.dumps(call.arguments, ensure_ascii=False).encode()


@given(st.dictionaries(st.sampled_from(["path", "limit", "all", "x"]), st.text(st.characters(codec="utf-8"))))
def test_the_same_call_written_in_both_ways_is_judged_alike(arguments: dict[str, str]) -> None:
    if any(mark in value for value in arguments.values() for mark in "<｜|\r"):
        return
    lines = [
        f'<｜DSML｜parameter name="{key}" string="true">{value}</｜DSML｜parameter>'
        for key, value in arguments.items()
    ]
    block = '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="read">\n' + "\n".join([*lines, ""])
    block += "</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
    (markup,) = parse_text(block, TOOLS, thinking=False, reason=FinishReason.STOP).calls
    call, _ = build_json_call("id", "read", json.dumps(arguments), TOOLS)
    assert (call.arguments, call.error) == (markup.arguments, markup.error)
