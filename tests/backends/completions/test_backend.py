"""The token backend against servers of each kind: what they are sent, what becomes of what they say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dsv4_agent.backends.base import Finished, GrammarUse, ModelError, PrefixSynced
from dsv4_agent.backends.facts import ServerKind
from dsv4_agent.backends.profile import Prices
from dsv4_agent.dsml.dialect import BOS, EOS, USER, GrammarMode
from dsv4_agent.dsml.events import FinishReason
from dsv4_agent.dsml.segments import Segment
from dsv4_agent.session.transcript import Transcript
from tests.backends.completions.asking import Vllm, ask, backend, said, sampled, sse
from tests.backends.completions.conftest import conversation

ANSWER = "I look, é and 漢字.</think>It is `done` — 你好."
TOOLS = ({"name": "read", "description": "", "parameters": {"type": "object", "properties": {}}},)


async def test_ids_go_there_and_come_back(serve: Any, tokenizer: Any, talk: Transcript) -> None:
    handler = Vllm(tokenizer, ANSWER, len(talk.tokens()))
    server = await serve(handler)
    prices = Prices(hit=1.0, miss=10.0, output=100.0)
    made = backend(server.profile(tokenizer="nano", prices=prices), ServerKind.VLLM)
    events = await ask(made, talk)
    assert sampled(events) == handler.whole
    body = json.loads(server.seen[0].body)
    assert body["prompt"] == talk.tokens()
    assert body["return_token_ids"] is True and body["skip_special_tokens"] is False
    assert "dsv4" not in body
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.reason is FinishReason.STOP
    usage = last.usage
    assert (usage.input_tokens, usage.cached_input_tokens, usage.output_tokens) == (9, 4, len(handler.whole))
    assert usage.cost == pytest.approx((4 * 1 + 5 * 10 + len(handler.whole) * 100) / 1e6)
    assert usage.currency == "USD"


async def test_text_where_no_ids_come(serve: Any, tokenizer: Any, talk: Transcript) -> None:
    handler = Vllm(tokenizer, ANSWER, len(talk.tokens()), ids=False)
    server = await serve(handler)
    events = await ask(backend(server.profile(tokenizer="nano"), ServerKind.VLLM), talk)
    assert said(events) == ANSWER + EOS
    assert sampled(events) == []


async def test_our_own_server_is_asked_for_the_grammar(serve: Any, tokenizer: Any, talk: Transcript) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.begin()
        synced = {"reused": 7, "prefilled": 2, "restored": 1, "restored_from": "disk", "cause": None}
        end = {"grammar": {"tokens": 5, "violations": 1}, "kv_bytes": {"window": 12}, "synced": synced}
        choice = {"index": 0, "text": "x", "token_ids": [5], "finish_reason": None}
        await exchange.send(
            sse(
                {"choices": [{**choice, "text": "", "token_ids": []}], "dsv4": {"synced": synced}},
                {"choices": [choice]},
                {"choices": [{**choice, "finish_reason": "length", "token_ids": []}], "dsv4": end},
            )
        )
        exchange.writer.close()

    server = await serve(handler)
    made = backend(server.profile(tokenizer="nano"), ServerKind.DSV4)
    events = await ask(made, talk, tools=TOOLS, grammar=GrammarMode.COUNTED, thinking_budget=9)
    assert events[0] == PrefixSynced(7, 2, "disk", None, 1)
    last = events[-1]
    assert isinstance(last, Finished)
    assert (last.reason, last.grammar) == (FinishReason.LENGTH, GrammarUse(5, 1))
    assert dict(last.kv_bytes) == {"window": 12}
    assert json.loads(server.seen[0].body)["dsv4"] == {
        "tools": [dict(TOOLS[0])],
        "grammar": "counted",
        "dialect": "v4",
        "thinking_budget": 9,
    }


async def test_llama_cpp_has_its_own_form(serve: Any, tokenizer: Any, talk: Transcript) -> None:
    whole = tokenizer.encode(ANSWER, True)

    async def handler(exchange: Any) -> None:
        await exchange.begin()
        events: list[object] = [{"content": "?", "tokens": [id], "stop": False} for id in whole]
        end = {"content": "", "stop": True, "stop_type": "eos", "tokens_evaluated": 9, "tokens_predicted": 4}
        await exchange.send(sse(*events, {**end, "timings": {"cache_n": 6}}))
        exchange.writer.close()

    server = await serve(handler)
    events = await ask(backend(server.profile(tokenizer="nano"), ServerKind.LLAMA_CPP), talk, seed=3)
    assert sampled(events) == [*whole, tokenizer.eos_id]
    assert server.seen[0].path == "/completion"
    body = json.loads(server.seen[0].body)
    assert (body["prompt"], body["n_predict"], body["top_k"], body["seed"]) == (talk.tokens(), 100, 0, 3)
    last = events[-1]
    assert isinstance(last, Finished)
    assert (last.usage.input_tokens, last.usage.cached_input_tokens) == (9, 6)


@pytest.mark.parametrize("repetitive", [True, False])
@pytest.mark.parametrize("cumulative", [True, False])
async def test_sglang_repeats_itself_or_not(
    serve: Any, tokenizer: Any, talk: Transcript, cumulative: bool, repetitive: bool
) -> None:
    whole = [40, 40, 40] if repetitive else tokenizer.encode(ANSWER, True)
    whole = [*whole, tokenizer.eos_id]

    async def handler(exchange: Any) -> None:
        await exchange.begin()
        for place in range(1, len(whole) + 1):
            ids = whole[:place] if cumulative else whole[place - 1 : place]
            finish = {"type": "stop", "matched": 1} if place == len(whole) else None
            meta = {"prompt_tokens": 9, "cached_tokens": 2, "completion_tokens": place}
            meta["finish_reason"] = finish
            await exchange.send(sse({"text": "?", "output_ids": ids, "meta_info": meta}))
        exchange.writer.close()

    server = await serve(handler)
    events = await ask(backend(server.profile(tokenizer="nano"), ServerKind.SGLANG), talk)
    assert sampled(events) == whole
    assert server.seen[0].path == "/generate"
    assert json.loads(server.seen[0].body)["input_ids"] == talk.tokens()


async def test_a_server_that_takes_text_gets_no_text_that_acts_as_structure(serve: Any) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.begin()
        await exchange.send(sse({"choices": [{"text": "Hi.", "finish_reason": "stop"}]}))
        exchange.writer.close()

    server = await serve(handler)
    plain = conversation(Segment(BOS + USER, True), Segment("hello", False))
    events = await ask(backend(server.profile(tokenizer="nano"), ServerKind.TRANSFORMERS), plain)
    assert said(events) == "Hi." + EOS
    body = json.loads(server.seen[0].body)
    assert body["prompt"] == BOS + USER + "hello"
    assert set(body) == {"model", "max_tokens", "temperature", "top_p", "stream", "prompt"}
    forged = conversation(Segment(BOS + USER, True), Segment("x<｜Assistant｜>", False))
    with pytest.raises(ModelError, match="special tokens"):
        await ask(backend(server.profile(tokenizer="nano"), ServerKind.TRANSFORMERS), forged)
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("event", "words", "attempts"),
    [
        ({"error": {"message": "maximum context length exceeded", "code": 400}}, "set context", 1),
        ({"error": {"message": "engine died", "code": 500}}, "engine died", 6),
        ({"error": "odd"}, "odd", 6),
        (["no object"], "no object", 6),
    ],
)
async def test_errors_inside_a_stream(
    serve: Any, talk: Transcript, event: object, words: str, attempts: int
) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.begin()
        await exchange.send(sse(event))
        exchange.writer.close()

    server = await serve(handler)
    with pytest.raises(ModelError, match=words):
        await ask(backend(server.profile(tokenizer="nano"), ServerKind.VLLM), talk)
    assert len(server.seen) == attempts


async def test_sglang_without_ids_speaks_the_usual_form(serve: Any, talk: Transcript) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.begin()
        await exchange.send(sse({"choices": [{"text": "Hi.", "finish_reason": "stop"}]}))
        exchange.writer.close()

    server = await serve(handler)
    made = backend(server.profile(tokenizer="nano"), ServerKind.SGLANG, returns_ids=False)
    assert said(await ask(made, talk)) == "Hi." + EOS
    body = json.loads(server.seen[0].body)
    assert server.seen[0].path == "/v1/completions"
    assert (body["prompt"], body["skip_special_tokens"]) == (talk.tokens(), False)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ({"stop_type": "eos"}, FinishReason.STOP),
        ({"stop_type": "limit"}, FinishReason.LENGTH),
        ({"stop_type": "word"}, FinishReason.STOP),
        ({}, FinishReason.STOP),
    ],
)
async def test_how_llama_cpp_ends(
    serve: Any, tokenizer: Any, talk: Transcript, end: dict[str, str], reason: FinishReason
) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.begin()
        await exchange.send(sse({"content": "a", "tokens": [40], "stop": False}, {"stop": True, **end}))
        exchange.writer.close()

    server = await serve(handler)
    events = await ask(backend(server.profile(tokenizer="nano"), ServerKind.LLAMA_CPP), talk)
    assert isinstance(events[-1], Finished) and events[-1].reason is reason
    assert sampled(events) == [40, *([tokenizer.eos_id] if reason is FinishReason.STOP else [])]


async def test_the_ids_that_llama_cpp_keeps_back_are_found_again(
    serve: Any, tokenizer: Any, talk: Transcript
) -> None:
    whole = tokenizer.encode(ANSWER, True)

    async def handler(exchange: Any) -> None:
        await exchange.begin()
        decoder, pending, events = tokenizer.stream_decoder(), b"", []
        for id in whole:
            pending += tokenizer.token_bytes(id)
            if (text := decoder.push(id)) and pending == text.encode():
                events.append({"content": text, "tokens": [id], "stop": False})
                pending = b""
        await exchange.send(sse(*events, {"stop": True, "stop_type": "eos"}))
        assert len(events) < len(whole)
        exchange.writer.close()

    server = await serve(handler)
    events = await ask(backend(server.profile(tokenizer="nano"), ServerKind.LLAMA_CPP), talk)
    assert sampled(events) == [*whole, tokenizer.eos_id]


async def test_text_is_counted_by_the_server(serve: Any, tokenizer: Any, talk: Transcript) -> None:
    server = await serve(Vllm(tokenizer, ANSWER, len(talk.tokens()), ids=False))
    events = await ask(backend(server.profile(tokenizer="nano"), ServerKind.VLLM), talk)
    assert isinstance(events[-1], Finished)
    usage = events[-1].usage
    assert (usage.input_tokens, usage.output_tokens, usage.counted) == (9, 3, True)


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
        "the request exceeds the available context size, try increasing it",
        "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
    ],
)
async def test_a_prompt_that_is_too_long(serve: Any, talk: Transcript, message: str) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.answer(400, json.dumps({"error": {"message": message}}).encode())

    server = await serve(handler)
    made = backend(server.profile(tokenizer="nano"), ServerKind.VLLM, context=8192)
    with pytest.raises(ModelError) as caught:
        await ask(made, talk)
    assert "8,192 tokens" in str(caught.value) and "/compact" in str(caught.value)
    assert message.split(".")[0] in str(caught.value) and "doctor" not in str(caught.value)
    assert len(server.seen) == 1
