"""`/v1/completions`: the same tokens as in process, whoever else is served; OpenAI's and vLLM's fields."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dsv4_agent.backends.base import Finished, GenerationRequest, SampledIds
from dsv4_agent.backends.inprocess import InProcessBackend
from dsv4_agent.dsml.dialect import Thinking
from dsv4_agent.dsml.segments import Segment
from dsv4_agent.dsml.turn import UserText, opening, user_turn
from dsv4_agent.loop.preset import nano_preset
from dsv4_agent.session.transcript import Entry, EntryKind, Transcript
from tests.server.agent_prompt import nano_functions
from tests.server.conftest import Served, nano_engine, serving

TASKS = [f"Rename the function `f_{n}` to `g_{n}` everywhere." for n in range(9)]


def prompt_of(task: str) -> list[int]:
    preset = nano_preset()
    segments = [
        *opening(preset.system_prompt, nano_functions(), thinking=Thinking.THINKING),
        *user_turn([UserText(task)], thinking=Thinking.THINKING),
    ]
    return nano_engine().tokenizer.encode_segments(segments)


async def in_process(prompt: list[int]) -> list[int]:
    backend = InProcessBackend(nano_engine(), keeps=False)
    transcript = Transcript([Entry(EntryKind.PROMPT, 0, (Segment("x", True),), tuple(prompt))])
    preset = nano_preset()
    request = GenerationRequest(
        preset.max_tokens_per_turn,
        preset.thinking,
        preset.dialect,
        tools=tuple(nano_functions()),
        temperature=0.0,
        thinking_budget=preset.thinking_budget,
    )
    ids: list[int] = []
    async for event in backend.generate(transcript, request):
        match event:
            case SampledIds(more):
                ids += more
            case Finished():
                break
    await backend.close()
    return ids


def body_of(prompt: list[int]) -> dict[str, Any]:
    preset = nano_preset()
    return {
        "prompt": prompt,
        "max_tokens": preset.max_tokens_per_turn,
        "temperature": 0,
        "return_token_ids": True,
        "dsv4": {"tools": list(nano_functions()), "thinking_budget": preset.thinking_budget},
    }


async def test_greedy_tokens_are_those_of_the_engine_in_process() -> None:
    prompts = [prompt_of(task) for task in TASKS]
    expected = [await in_process(prompt) for prompt in prompts]
    async with serving(nano_engine()) as served:
        alone = await served.complete(**body_of(prompts[0]))
    assert alone["choices"][0]["token_ids"] == expected[0]
    async with serving(nano_engine()) as served:
        together = await asyncio.gather(*(served.complete(**body_of(prompt)) for prompt in prompts))
    assert [answer["choices"][0]["token_ids"] for answer in together] == expected
    assert {answer["choices"][0]["finish_reason"] for answer in together} == {"stop"}


async def lines_of(served: Served, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    async with served.http.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))


async def test_a_stream_says_the_same_as_the_whole(nano: Served) -> None:
    body = body_of(prompt_of(TASKS[0]))
    whole = (await nano.complete(**body))["choices"][0]
    chunks = [chunk async for chunk in lines_of(nano, {**body, "stream_options": {"include_usage": True}})]
    *parts, usage = chunks
    assert "".join(part["choices"][0]["text"] for part in parts) == whole["text"]
    assert [token for part in parts for token in part["choices"][0]["token_ids"]] == whole["token_ids"]
    assert [part["choices"][0]["finish_reason"] for part in parts][-2:] == [None, "stop"]
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == len(whole["token_ids"])
    assert parts[0]["dsv4"] == {"synced": parts[-1]["dsv4"]["synced"]} and not parts[0]["choices"][0]["text"]
    last = parts[-1]["dsv4"]
    assert last["grammar"]["tokens"] > 0 and last["grammar"]["violations"] == 0
    assert last["synced"]["reused"] == usage["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert last["kv_bytes"]["window"] > 0


async def test_a_text_is_read_with_its_special_tokens(nano: Served) -> None:
    text = "<｜begin▁of▁sentence｜><｜User｜>hello<｜Assistant｜></think>"
    ids = nano_engine().tokenizer.encode(text, True)
    one, other = [await nano.complete(prompt=p, max_tokens=6, temperature=0) for p in (text, ids)]
    assert one["choices"] == other["choices"]
    assert one["usage"]["prompt_tokens"] == len(ids)


async def test_several_prompts_have_a_choice_each(nano: Served) -> None:
    texts = ["<｜User｜>hello<｜Assistant｜>", "<｜User｜>Find `main`.<｜Assistant｜>"]
    each = [(await nano.complete(prompt=text, max_tokens=5))["choices"][0]["text"] for text in texts]
    both = await nano.complete(prompt=texts, max_tokens=5)
    assert [choice["text"] for choice in both["choices"]] == each
    assert both["usage"]["completion_tokens"] == 10
    streamed = ["", ""]
    async for chunk in lines_of(nano, {"prompt": texts, "max_tokens": 5}):
        choice = chunk["choices"][0]
        streamed[choice["index"]] += choice["text"]
    assert streamed == each


async def test_a_stop_string_may_lie_across_tokens(nano: Served) -> None:
    body = {"prompt": "<｜User｜>hello<｜Assistant｜><think>", "max_tokens": 30}
    tokenizer = nano_engine().tokenizer
    whole = (await nano.complete(**body, return_token_ids=True))["choices"][0]
    pieces = [tokenizer.decode([token]) for token in whole["token_ids"]]
    middle = len(pieces) // 2
    stop = pieces[middle][-1:] + pieces[middle + 1][:1]
    before = whole["text"].partition(stop)[0]
    answer = await nano.complete(**body, stop=[stop, "never said"])
    assert answer["choices"][0]["text"] == before
    assert answer["choices"][0]["finish_reason"] == "stop"
    streamed = [c["choices"][0]["text"] async for c in lines_of(nano, {**body, "stop": stop})]
    assert "".join(streamed) == before
    await nano.until(lambda: nano.source.scheduler.running == 0)


async def test_seeds_repeat_and_differ(small: Served) -> None:
    async def ids(seed: int) -> list[int]:
        answer = await small.complete(
            prompt=[20, 30, 40], max_tokens=12, temperature=1.5, seed=seed, return_token_ids=True
        )
        return list(answer["choices"][0]["token_ids"])

    assert await ids(1) == await ids(1) != await ids(2)


async def test_top_k_one_is_greedy_at_any_temperature(small: Served) -> None:
    body = {"prompt": [20, 30, 40], "max_tokens": 8, "return_token_ids": True}
    greedy = await small.complete(**body, temperature=0)
    cut = await small.complete(**body, temperature=2.0, top_k=1)
    assert cut["choices"] == greedy["choices"]


async def test_log_probabilities_have_the_form_of_the_api(small: Served) -> None:
    answer = await small.complete(prompt=[20, 30], max_tokens=4, logprobs=3, temperature=0)
    found = answer["choices"][0]["logprobs"]
    assert len(found["tokens"]) == len(found["token_logprobs"]) == len(found["text_offset"]) == 4
    for value, top in zip(found["token_logprobs"], found["top_logprobs"], strict=True):
        assert value == pytest.approx(max(top.values())) and value < 0
        assert len(top) <= 3


async def test_offsets_of_tokens_are_places_in_the_text(nano: Served) -> None:
    answer = await nano.complete(prompt="漢漢漢漢", max_tokens=8, logprobs=1, return_token_ids=True)
    choice = answer["choices"][0]
    codec, ids = nano.service.model.codec, choice["token_ids"]
    assert any(len(codec.token_bytes(id)) < len("漢".encode()) for id in ids)
    before = [b"".join(map(codec.token_bytes, ids[:at])).decode("utf-8", "ignore") for at in range(8)]
    assert choice["logprobs"]["text_offset"] == [len(text) for text in before]


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("n", {"n": 2}),
        ("best_of", {"best_of": 3}),
        ("echo", {"echo": True}),
        ("suffix", {"suffix": "x"}),
        ("temperature", {"temperature": "warm"}),
        ("temperature", {"temperature": -1}),
        ("max_tokens", {"max_tokens": 0}),
        ("max_tokens", {"max_tokens": True}),
        ("stop", {"stop": ["x"] * 99}),
        ("prompt", {"prompt": []}),
        ("prompt", {"prompt": ""}),
        ("prompt", {"prompt": [5, -1]}),
        ("prompt", {"prompt": [10**9]}),
        ("prompt", {"prompt": {"a": 1}}),
        ("prompt", {"prompt": [[1], "x"]}),
        ("logit_bias", {"logit_bias": {"5": 1}}),
        ("dsv4.tools", {"dsv4": {"tools": [{"description": "nameless"}]}}),
        ("dsv4.grammar", {"dsv4": {"grammar": "sometimes"}}),
    ],
)
async def test_what_can_not_be_served_is_refused_by_its_field(
    small: Served, field: str, body: dict[str, Any]
) -> None:
    response = await small.http.post("/v1/completions", json={"prompt": [20], **body})
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["param"] == field and error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "raw", [b"", b"[1]", b"{", b'{"prompt": "\xff"}', b"[" * 100_000, b"null", b'{"x": NaN}', b'{"x": 1e999}']
)
async def test_a_body_that_is_no_object_is_refused(small: Served, raw: bytes) -> None:
    response = await small.http.post("/v1/completions", content=raw)
    assert response.status_code == 400 and "body" in response.json()["error"]["message"]


async def test_a_prompt_beyond_the_window_is_told_at_once(small: Served) -> None:
    response = await small.http.post("/v1/completions", json={"prompt": [20] * 701})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


async def test_the_window_ends_an_answer(small: Served) -> None:
    answer = await small.complete(prompt=[20] * 690, max_tokens=100)
    assert answer["usage"]["completion_tokens"] == 10
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_fields_nobody_knows_are_ignored(small: Served) -> None:
    answer = await small.complete(prompt=[20], max_tokens=1, best_friend="x", presence_penalty=0.5)
    assert answer["usage"]["completion_tokens"] == 1
