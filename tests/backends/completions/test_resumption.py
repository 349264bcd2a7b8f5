"""A stream that breaks: what was sampled stays, what follows continues it, nothing comes twice."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dsv4_agent.backends.base import Finished, ModelError, Retrying, SampledIds
from dsv4_agent.backends.completions.backend import CompletionsBackend
from dsv4_agent.backends.facts import ServerKind
from dsv4_agent.backends.profile import Timeouts
from dsv4_agent.dsml.dialect import EOS
from dsv4_agent.dsml.events import FinishReason
from dsv4_agent.session.transcript import Transcript
from tests.backends.completions.asking import Vllm, answer, ask, backend, request, said, sampled, sse

TEXT = "é</think>漢"


@pytest.mark.parametrize(("ids", "late"), [(True, False), (True, True), (False, True)])
async def test_a_stream_may_be_cut_at_every_byte(
    serve: Any, tokenizer: Any, talk: Transcript, ids: bool, late: bool
) -> None:
    handler = Vllm(tokenizer, TEXT, len(talk.tokens()), ids=ids, late=late)
    server = await serve(handler)
    made = backend(server.profile(tokenizer="nano"), ServerKind.VLLM)
    retried = 0
    for cut in range(len(handler.stream(0)) + 1):
        handler.again(cut)
        events = await answer(made, talk, max_tokens=50)
        assert (sampled(events) == handler.whole) if ids else (said(events) == TEXT + EOS), cut
        attempts = [event for event in events if isinstance(event, Retrying)]
        assert not any(event.discards for event in attempts)
        assert len(handler.prompts) == len(attempts) + 1
        for prompt, body in zip(handler.prompts, handler.bodies, strict=True):
            assert prompt[: len(talk.tokens())] == talk.tokens()
            assert not ids or body["max_tokens"] == 50 - (len(prompt) - len(talk.tokens()))
        last = events[-1]
        assert isinstance(last, Finished) and last.reason is FinishReason.STOP
        retried += len(attempts)
    assert retried > 100
    await made.close()


async def test_a_turn_whose_last_token_came_needs_no_further_attempt(
    serve: Any, tokenizer: Any, talk: Transcript
) -> None:
    eos = tokenizer.eos_id

    async def handler(exchange: Any) -> None:
        await exchange.begin()
        await exchange.send(sse({"choices": [{"text": "a", "token_ids": [40, eos, 41]}]}))
        exchange.writer.close()

    server = await serve(handler)
    events = await ask(backend(server.profile(tokenizer="nano"), ServerKind.VLLM), talk)
    assert sampled(events) == [40, eos]
    assert len(server.seen) == 1


async def test_a_complete_answer_does_not_wait_for_a_server_that_has_no_end(
    serve: Any, tokenizer: Any, talk: Transcript, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsv4_agent.backends.completions.backend._AFTERWARDS", 0.05)

    async def handler(exchange: Any) -> None:
        await exchange.begin()
        await exchange.send(sse({"choices": [{"text": "a", "token_ids": [40], "finish_reason": "stop"}]}))
        await exchange.writer.wait_closed()

    server = await serve(handler)
    events = await ask(backend(server.profile(tokenizer="nano"), ServerKind.VLLM), talk)
    assert sampled(events) == [40, tokenizer.eos_id]


async def test_max_tokens_hold_over_all_attempts(serve: Any, talk: Transcript) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.begin()
        await exchange.send(sse({"choices": [{"text": "ab", "token_ids": [40, 41]}]}))
        exchange.writer.close()

    server = await serve(handler)
    events = await ask(backend(server.profile(tokenizer="nano"), ServerKind.VLLM), talk, max_tokens=5)
    assert sampled(events) == [40, 41, 40, 41, 40]
    assert [json.loads(exchange.body)["max_tokens"] for exchange in server.seen] == [5, 3, 1]
    last = events[-1]
    assert isinstance(last, Finished) and last.reason is FinishReason.LENGTH


async def test_a_server_that_never_stops_is_stopped(serve: Any, talk: Transcript) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.begin()
        while True:
            await exchange.send(sse({"choices": [{"text": "word " * 100}]}))

    server = await serve(handler)
    with pytest.raises(ModelError, match="beyond max_tokens"):
        await ask(backend(server.profile(tokenizer="nano"), ServerKind.VLLM), talk, max_tokens=20)
    assert len(server.seen) == 1


async def test_our_server_is_told_what_of_the_prompt_is_this_turns(serve: Any, talk: Transcript) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.begin()
        finish = "length" if len(server.seen) == 2 else None
        await exchange.send(sse({"choices": [{"text": "a", "token_ids": [40], "finish_reason": finish}]}))
        exchange.writer.close()

    server = await serve(handler)
    await ask(backend(server.profile(tokenizer="nano"), ServerKind.DSV4), talk, thinking_budget=9)
    first, second = (json.loads(exchange.body)["dsv4"] for exchange in server.seen)
    assert "continues" not in first and first["thinking_budget"] == 9
    assert (second["continues"], second["thinking_budget"]) == (1, 8)


@pytest.mark.parametrize("reason", ["abort", "error", "content_filter"])
async def test_an_answer_that_the_server_gives_up_is_no_answer(
    serve: Any, tokenizer: Any, talk: Transcript, reason: str
) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.begin()
        finish = reason if len(server.seen) == 1 else "stop"
        await exchange.send(sse({"choices": [{"text": "a", "token_ids": [40], "finish_reason": finish}]}))
        exchange.writer.close()

    server = await serve(handler)
    events = await ask(backend(server.profile(tokenizer="nano"), ServerKind.VLLM), talk)
    assert sampled(events) == [40, 40, tokenizer.eos_id]
    assert [event.reason for event in events if isinstance(event, Retrying)] == ["aborted"]


async def test_text_is_not_lost_where_ids_fail_to_come(serve: Any, tokenizer: Any, talk: Transcript) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.begin()
        if len(server.seen) == 1:
            pieces = [{"text": "a", "token_ids": [40]}, {"text": "b", "token_ids": ["x"]}]
            await exchange.send(sse(*({"choices": [piece]} for piece in pieces)))
        else:
            end = {"text": "b", "token_ids": [41], "finish_reason": "stop"}
            await exchange.send(sse({"choices": [end]}))
        exchange.writer.close()

    server = await serve(handler)
    events = await ask(backend(server.profile(tokenizer="nano"), ServerKind.VLLM), talk)
    assert sampled(events) == [40, 41, tokenizer.eos_id]
    assert [event.reason for event in events if isinstance(event, Retrying)] == ["ids_missing"]


async def test_ids_of_another_vocabulary_are_refused(serve: Any, talk: Transcript) -> None:
    async def handler(exchange: Any) -> None:
        await exchange.begin()
        await exchange.send(sse({"choices": [{"text": "a", "token_ids": [128_000]}]}))

    server = await serve(handler)
    with pytest.raises(ModelError, match="set the profile's tokenizer"):
        await ask(backend(server.profile(tokenizer="nano"), ServerKind.VLLM), talk)
    assert len(server.seen) == 1


@pytest.mark.parametrize("silent", [True, False])
async def test_leaving_ends_the_request_or_the_pause(serve: Any, talk: Transcript, silent: bool) -> None:
    async def handler(exchange: Any) -> None:
        if not silent:
            await exchange.answer(503)
            return
        await exchange.begin()
        await exchange.send(sse({"choices": [{"text": "a", "token_ids": [40]}]}))
        await exchange.writer.wait_closed()

    server = await serve(handler)
    profile = server.profile(tokenizer="nano", timeouts=Timeouts(), retries=5)
    ended = CompletionsBackend(profile, backend(profile, ServerKind.VLLM)._facts)
    events = ended.generate(talk, request())
    first = await anext(events)
    assert isinstance(first, SampledIds if silent else Retrying)
    await events.aclose()
    client = ended._client._client
    assert client is not None
    pool = client._transport._pool  # type: ignore[attr-defined]
    assert all(connection.is_idle() for connection in pool.connections)
    await ended.close()
    await ended.close()
