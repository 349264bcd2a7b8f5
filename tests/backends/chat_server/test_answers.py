"""What servers answer, in every framing that is known, becomes the same turn."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dsv4_agent.backends.base import (
    BackendEvent,
    BackendNotice,
    Finished,
    ModelError,
    Retrying,
    SampledCall,
    SampledReasoning,
    SampledText,
)
from dsv4_agent.backends.facts import ServerKind
from dsv4_agent.backends.profile import Prices
from dsv4_agent.dsml.events import FinishReason

from .loopback import Answer, ask, asked, backend_of, delta, piece, refusal, serving, sse

ARGUMENTS = '{"path": "a b.py", "limit": 3}'
CALL = SampledCall("c1", "read", ARGUMENTS)


def said(events: list[BackendEvent]) -> tuple[str, str, list[SampledCall], FinishReason]:
    """Reasoning, answer, calls and ending."""
    reasoning = "".join(event.text for event in events if isinstance(event, SampledReasoning))
    text = "".join(event.text for event in events if isinstance(event, SampledText))
    last = events[-1]
    assert isinstance(last, Finished)
    assert sum(isinstance(event, Finished) for event in events) == 1
    return reasoning, text, [event for event in events if isinstance(event, SampledCall)], last.reason


async def answered(*chunks: Any, **options: Any) -> list[BackendEvent]:
    async with serving(Answer(sse(*chunks, **options))) as server:
        return await ask(backend_of(server))


THOUGHT = [
    delta(role="assistant", content=None),
    delta(reasoning_content="Let "),
    delta(reasoning_content="me."),
]

CHARACTERS = [delta(tool_calls=[piece(0, arguments=character)]) for character in ARGUMENTS]
FRAMINGS: dict[str, list[Any]] = {
    "whole": [delta(tool_calls=[piece(0, "c1", "read", ARGUMENTS)])],
    "name first": [
        delta(tool_calls=[piece(0, "c1", "read", "")]),
        delta(tool_calls=[piece(0, arguments=ARGUMENTS)]),
    ],
    "by characters": [delta(tool_calls=[piece(0, "c1", "read")]), *CHARACTERS],
    "name in pieces": [
        delta(tool_calls=[piece(0, "c1", "re")]),
        delta(tool_calls=[piece(0, name="ad")]),
        delta(tool_calls=[piece(0, arguments=ARGUMENTS)]),
    ],
    "everything repeated": [
        delta(tool_calls=[piece(0, "c1", "read", part)]) for part in (ARGUMENTS[:9], ARGUMENTS[9:])
    ],
    "no index": [
        delta(tool_calls=[piece(None, "c1", "read", "")]),
        *(delta(tool_calls=[piece(None, arguments=part)]) for part in (ARGUMENTS[:7], ARGUMENTS[7:])),
    ],
    "no index at first": [
        delta(tool_calls=[piece(None, "c1", "read", "")]),
        delta(tool_calls=[piece(0, arguments=ARGUMENTS)]),
    ],
    "blank data between": ["", delta(tool_calls=[piece(0, "c1", "read", ARGUMENTS)]), " "],
    "an object": [delta(tool_calls=[piece(0, "c1", "read", json.loads(ARGUMENTS))])],
    "nulls": [
        {"choices": [{"delta": {"content": None, "tool_calls": None, "reasoning_content": None}}]},
        {"choices": [{"delta": None}]},
        {"choices": []},
        {"choices": None},
        delta(tool_calls=[piece(0, "c1", "read", ARGUMENTS), None, {"function": None}][:2]),
    ],
    "with the finish": [],
}


@pytest.mark.parametrize("name", FRAMINGS)
@pytest.mark.parametrize("done", [True, False])
async def test_a_call_in_any_framing(name: str, done: bool) -> None:
    end = delta("tool_calls")
    if name == "with the finish":
        end = delta("tool_calls", tool_calls=[piece(0, "c1", "read", ARGUMENTS)])
    events = await answered(*THOUGHT, delta(content="Reading."), *FRAMINGS[name], end, done=done)
    assert said(events) == ("Let me.", "Reading.", [CALL], FinishReason.STOP)


async def test_reasoning_comes_first_even_where_there_is_none() -> None:
    events = await answered(delta("stop", content="Hi."))
    assert events[:2] == [SampledReasoning(""), SampledText("Hi.")]


async def test_several_calls_interleaved() -> None:
    parts = [
        piece(0, "c1", "read", '{"path":'),
        piece(1, "c2", "read", ""),
        piece(0, arguments=' "a"}'),
        piece(1, arguments='{"path": "b"}'),
    ]
    events = await answered(*(delta(tool_calls=[part]) for part in parts), delta("tool_calls"))
    assert said(events)[2] == [
        SampledCall("c1", "read", '{"path": "a"}'),
        SampledCall("c2", "read", '{"path": "b"}'),
    ]


@pytest.mark.parametrize("ids", [("c1", "c2"), (None, None)])
@pytest.mark.parametrize("index", [0, None])
async def test_calls_that_all_have_one_index(ids: tuple[Any, Any], index: int | None) -> None:
    parts = [piece(index, id, "read", json.dumps({"path": path})) for id, path in zip(ids, "ab", strict=True)]
    events = await answered(*(delta(tool_calls=[part]) for part in parts), delta("tool_calls"))
    assert [call.arguments for call in said(events)[2]] == ['{"path": "a"}', '{"path": "b"}']


async def test_the_old_function_call() -> None:
    events = await answered(
        delta(function_call={"name": "read", "arguments": ""}),
        delta(function_call={"arguments": ARGUMENTS}),
        delta("function_call"),
    )
    assert said(events)[2] == [SampledCall("", "read", ARGUMENTS)]


async def test_an_answer_that_is_not_streamed() -> None:
    whole = {
        "choices": [
            {
                "message": {
                    "role": "assistant",
                    "reasoning": "Hm.",
                    "content": "Reading.",
                    "tool_calls": [piece(None, id, "read", ARGUMENTS) for id in ("c1", "c2")],
                },
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4},
    }
    async with serving(Answer([json.dumps(whole).encode()], kind="application/json")) as server:
        events = await ask(backend_of(server))
    assert said(events) == (
        "Hm.", "Reading.", [CALL, SampledCall("c2", "read", ARGUMENTS)], FinishReason.STOP
    )  # fmt: skip


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
async def test_both_names_of_reasoning(field: str) -> None:
    assert said(await answered(delta(**{field: "Hm."}), delta("stop", content="Hi.")))[:2] == ("Hm.", "Hi.")


async def test_content_in_parts() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
        {"type": "text", "text": "Hi"},
        {"type": "text", "text": "."},
    ]
    assert said(await answered(delta("stop", content=parts)))[:2] == ("Hm.", "Hi.")


@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_thinking_inside_the_content(size: int) -> None:
    text = "<think>Hm </th.</think>Hi."
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    events = await answered(*(delta(content=part) for part in pieces), delta("stop"))
    assert said(events)[:2] == ("Hm </th.", "Hi.")


async def test_a_thought_that_the_template_opens_is_told_and_read_right_from_then_on() -> None:
    answer = Answer(sse(delta(content="Hm.</thi"), delta("stop", content="nk>Hi.")))
    async with serving(answer) as server:
        backend = backend_of(server)
        first = await ask(backend)
        second = await ask(backend)
    assert [event.text for event in first if isinstance(event, BackendNotice)] != []
    assert said(second)[:2] == ("Hm.", "Hi.")
    assert not any(isinstance(event, BackendNotice) for event in second)


async def test_a_quoted_closing_tag_is_no_thought() -> None:
    events = await answered(delta(content="The tag `</think>` ends it."), delta("stop"))
    assert not any(isinstance(event, BackendNotice) for event in events)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 100, "completion_tokens": 7}, (100, 0, 7)),
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 7,
                "prompt_tokens_details": {"cached_tokens": 64},
            },
            (100, 64, 7),
        ),
        ({"prompt_tokens": 100, "completion_tokens": 7, "prompt_cache_hit_tokens": 64}, (100, 64, 7)),
        ({"prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": None}, (100, 0, 7)),
        ({"prompt_tokens": 100, "completion_tokens": 7, "prompt_cache_hit_tokens": 900}, (100, 100, 7)),
        ({"prompt_tokens": 100, "completion_tokens": -7}, (100, 0, 0)),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
async def test_usage_on_any_chunk(usage: Any, expected: tuple[int, int, int], alone: bool) -> None:
    last = delta("stop", content="Hi.")
    chunks = [last, {"choices": [], "usage": usage}] if alone else [{**last, "usage": usage}]
    finished = (await answered(*chunks))[-1]
    assert isinstance(finished, Finished)
    found = finished.usage
    assert (found.input_tokens, found.cached_input_tokens, found.output_tokens) == expected
    assert found.counted


async def test_no_usage_is_estimated_and_has_no_price() -> None:
    async with serving(Answer(sse(delta("stop", content="x" * 400)))) as server:
        events = await ask(backend_of(server, prices=Prices(hit=1, miss=2, output=3)))
    usage = said_usage(events)
    assert usage.output_tokens == 100
    assert usage.input_tokens > 10
    assert (usage.counted, usage.cost) == (False, None)


async def test_the_price_is_told() -> None:
    usage = {"prompt_tokens": 1_000_000, "prompt_cache_hit_tokens": 400_000, "completion_tokens": 100_000}
    async with serving(Answer(sse({**delta("stop", content="Hi."), "usage": usage}))) as server:
        events = await ask(backend_of(server, prices=Prices(hit=1, miss=2, output=3, currency="EUR")))
    assert said_usage(events).cost == pytest.approx(0.4 + 1.2 + 0.3)
    assert said_usage(events).currency == "EUR"


def said_usage(events: list[BackendEvent]) -> Any:
    last = events[-1]
    assert isinstance(last, Finished)
    return last.usage


@pytest.mark.parametrize(
    ("arguments", "kept"), [('{"path": "a.p', 0), ("", 1), ('{"path": "a.py"}', 1), ('{"path": "a"', 0)]
)
async def test_a_call_that_the_limit_cut_is_dropped(arguments: str, kept: int) -> None:
    events = await answered(
        delta(tool_calls=[piece(0, "c1", "read", ARGUMENTS)]),
        delta(tool_calls=[piece(1, "c2", "read", arguments)]),
        delta("length"),
    )
    _, _, calls, reason = said(events)
    assert reason is FinishReason.LENGTH
    assert len(calls) == 1 + kept


BROKEN: dict[str, Answer] = {
    "cut": Answer(sse(delta(reasoning_content="Hm"), done=False), cut=True),
    "ended": Answer(sse(delta(reasoning_content="Hm"), done=False)),
    "done without a reason": Answer(sse(delta(reasoning_content="Hm"))),
    "not JSON": Answer(sse(delta(reasoning_content="Hm"), '{"choices": [')),
    "a list": Answer(sse(delta(reasoning_content="Hm"), "[1]")),
    "an error": Answer(sse(delta(reasoning_content="Hm"), {"error": {"message": "no", "code": 500}})),
    "no resources": Answer(sse(delta(reasoning_content="Hm"), delta("insufficient_system_resource"))),
    "aborted": Answer(sse(delta(reasoning_content="Hm"), delta("abort"))),
    "in a call": Answer(
        sse(delta(reasoning_content="Hm"), delta(tool_calls=[piece(0, "c1", "read", '{"pa')]), done=False)
    ),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_answer_begins_anew(name: str) -> None:
    async with serving(BROKEN[name], Answer(sse(delta("stop", content="Hi.")))) as server:
        events = await ask(backend_of(server))
    (retrying,) = [event for event in events if isinstance(event, Retrying)]
    assert (retrying.attempt, retrying.max, retrying.discards) == (1, 5, True)
    at = events.index(retrying)
    assert SampledReasoning("Hm") in events[:at]
    if name == "in a call":
        assert events[at - 1] == SampledCall("c1", "read", '{"pa')
    assert said(events[at:]) == ("", "Hi.", [], FinishReason.STOP)
    assert server.raw[0] == server.raw[1]


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
async def test_what_fails_before_a_token_is_tried_again_and_discards_nothing(status: int) -> None:
    async with serving(refusal(status, "busy"), Answer(sse(delta("stop", content="Hi.")))) as server:
        events = await ask(backend_of(server))
    (retrying,) = [event for event in events if isinstance(event, Retrying)]
    assert (retrying.reason, retrying.discards) == (f"server_{status}", False)


@pytest.mark.parametrize("status", [401, 402, 403, 404])
async def test_what_does_not_pass_is_an_error_at_once(status: int) -> None:
    async with serving(refusal(status, "no")) as server:
        with pytest.raises(ModelError, match=str(status)):
            await ask(backend_of(server))
    assert len(server.raw) == 1


@pytest.mark.parametrize(
    "told",
    [
        {"error": {"message": "too long", "code": 400}},
        {"error": {"message": "too long", "code": "400"}},
        {"error": {"message": "too long", "type": "invalid_request_error", "code": None}},
        {"object": "error", "message": "too long", "type": "BadRequestError", "code": 400},
    ],
)
async def test_an_error_in_the_stream_that_does_not_pass_is_not_tried_again(told: dict[str, Any]) -> None:
    async with serving(Answer(sse(delta(role="assistant", content=""), told))) as server:
        with pytest.raises(ModelError, match="too long"):
            await ask(backend_of(server))
    assert len(server.raw) == 1


@pytest.mark.parametrize("code", ["429", "503", 500, "rate_limit_exceeded"])
async def test_an_error_in_the_stream_that_passes_is_tried_again(code: object) -> None:
    busy = Answer(sse({"error": {"message": "busy", "type": "error", "code": code}}))
    async with serving(busy, Answer(sse(delta("stop", content="Hi.")))) as server:
        assert said(await ask(backend_of(server)))[1] == "Hi."


async def test_retries_end() -> None:
    async with serving(refusal(503, "busy")) as server:
        with pytest.raises(ModelError, match="503"):
            await ask(backend_of(server, retries=2))
    assert len(server.raw) == 3


async def test_a_content_filter_gets_one_more_chance() -> None:
    async with serving(Answer(sse(delta("content_filter", content="Hm")))) as server:
        with pytest.raises(ModelError, match="content filter"):
            await ask(backend_of(server, kind=ServerKind.DEEPSEEK))
    assert len(server.raw) == 2


async def test_calls_without_end_are_an_error() -> None:
    many = [delta(tool_calls=[piece(number, f"c{number}", "read", "{}")]) for number in range(300)]
    async with serving(Answer(sse(*many, delta("tool_calls")))) as server:
        with pytest.raises(ModelError, match="tool calls"):
            await ask(backend_of(server))


async def test_text_without_end_is_an_error() -> None:
    async with serving(Answer(sse(*([delta(content="x" * 100_000)] * 40), delta("stop")))) as server:
        with pytest.raises(ModelError, match="far more"):
            await ask(backend_of(server), max_tokens=10)


AFTER: dict[str, Answer] = {
    "a broken connection": Answer(sse(delta("stop", content="Hi."), done=False), cut=True),
    "an error": Answer(sse(delta("stop", content="Hi."), {"error": {"message": "late"}})),
    "silence": Answer(sse(delta("stop", content="Hi."), done=False), silent=True),
    "no JSON": Answer(sse(delta("stop", content="Hi."), "bye")),
}


@pytest.mark.parametrize("name", AFTER)
async def test_a_complete_answer_is_not_lost_to_what_follows(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsv4_agent.backends.chat_server.backend._AFTERWARDS", 0.05)
    async with serving(AFTER[name]) as server:
        events = await ask(backend_of(server))
    assert said(events)[:2] == ("", "Hi.")
    assert not any(isinstance(event, Retrying) for event in events)
    assert len(server.raw) == 1


async def test_closing_the_iterator_ends_the_request() -> None:
    async with serving(Answer(sse(delta(content="Hi."), done=False), silent=True)) as server:
        backend = backend_of(server)
        events = backend.generate(*asked())
        async for event in events:
            if isinstance(event, SampledText):
                break
        await events.aclose()  # type: ignore[attr-defined]
        await server.left.wait()
        await backend.close()
