"""Every official and hosted rendering case of the shared fixtures, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dsv4_agent.dsml.dialect import Dialect, Encoder
from dsv4_agent.dsml.errors import RenderError
from dsv4_agent.dsml.render import render_text
from dsv4_agent.dsml.request import render_request
from dsv4_agent.dsml.segments import text_of
from tests.fixtures_path import SHARED

pytestmark = pytest.mark.skipif(SHARED is None, reason="the shared fixtures are not on this machine")
ROOT = SHARED or Path()


def load(name: str) -> list[dict[str, Any]]:
    return json.loads((ROOT / name).read_text()) if SHARED else []


def render_case(case: dict[str, Any], **more: Any) -> str:
    options = case["kwargs"]
    return render_text(
        case["messages"],
        thinking=options["thinking_mode"],
        effort=options.get("reasoning_effort"),
        drop_thinking=options.get("drop_thinking", True),
        add_bos=options.get("add_default_bos_token", True),
        context=options.get("context"),
        **more,
    )


@pytest.mark.parametrize(("number", "mode"), [(1, "thinking"), (2, "thinking"), (3, "thinking"), (4, "chat")])
def test_official_cases(number: int, mode: str) -> None:
    given = json.loads((ROOT / f"encoding_v4/test_input_{number}.json").read_text())
    if isinstance(given, dict):
        given["messages"][0]["tools"] = given["tools"]
        given = given["messages"]
    expected = (ROOT / f"encoding_v4/test_output_{number}.txt").read_text()
    assert render_text(given, thinking=mode) == expected


@pytest.mark.parametrize(
    "case", load("encoding_v4_extended/render_cases.json"), ids=lambda case: case["name"]
)
def test_extended_cases(case: dict[str, Any]) -> None:
    if "prompt" in case:
        assert render_case(case) == case["prompt"]
        return
    with pytest.raises(RenderError) as caught:
        render_case(case)
    assert case.get("error_message", case.get("message")) in str(caught.value)


def dialect_of(case: dict[str, Any]) -> Dialect:
    return Dialect.V41 if "4.1" in case["model"] else Dialect.V4_0731


@pytest.mark.parametrize(
    "case", load("recipe_0_2_0/render_cases.json"), ids=lambda case: f"{case['model']}-{case['name']}"
)
def test_hosted_cases(case: dict[str, Any]) -> None:
    if "prompt" in case:
        assert text_of(render_request(case["body"], dialect_of(case))) == case["prompt"]
        return
    with pytest.raises(RenderError) as caught:
        render_request(case["body"], dialect_of(case))
    assert str(caught.value) in case["error"]


@pytest.mark.parametrize(
    "case",
    [
        case
        for case in load("recipe_0_2_0/render_cases.json")
        if set(case["body"]) == {"messages"} and "prompt" in case
    ],
    ids=lambda case: f"{case['model']}-{case['name']}",
)
def test_hosted_encoder_is_selectable_in_render(case: dict[str, Any]) -> None:
    text = render_text(
        case["body"]["messages"],
        thinking="thinking",
        effort="high",
        dialect=dialect_of(case),
        encoder=Encoder.API,
    )
    assert text == case["prompt"]
