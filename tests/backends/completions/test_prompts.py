"""The prompt grows at its end only; what was sent is sent again byte for byte."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import pytest

from dsv4_agent.backends.completions.prompt import GrowingPrompt
from dsv4_agent.backends.completions.tokens import OwnTokens
from dsv4_agent.backends.facts import ServerKind
from dsv4_agent.dsml.dialect import ASSISTANT, BOS, EOS, THINK, USER
from dsv4_agent.dsml.segments import Segment
from dsv4_agent.session.transcript import Entry, EntryKind, Transcript
from tests.backends.completions.asking import Vllm, answer, backend, said, sampled
from tests.backends.completions.conftest import conversation, extend


class Counting(OwnTokens):
    """Notes what is encoded."""

    __slots__ = ()
    seen: list[str] = []  # noqa: RUF012

    async def encode(self, segments: Any) -> list[int]:
        self.seen.append("".join(segment.text for segment in segments))
        return await super().encode(segments)


def array(prompt: GrowingPrompt) -> list[int]:
    ids: list[int] = json.loads(prompt.json())
    assert len(ids) == prompt.count
    return ids


@pytest.mark.parametrize("ids", [True, False])
async def test_a_prompt_is_an_extension_of_the_one_before(serve: Any, tokenizer: Any, ids: bool) -> None:
    opening = [Segment(BOS, True), Segment("You are", True), Segment(" a tool.\n", True)]
    talk = conversation(*opening, tokenizer=tokenizer)
    stream = Vllm(tokenizer, "I see.</think>Done, é.", 0, ids=ids).stream(0)

    async def handler(exchange: Any) -> None:
        await exchange.begin()
        await exchange.send(stream)
        exchange.writer.close()

    server = await serve(handler)
    made = backend(server.profile(tokenizer="nano"), ServerKind.VLLM)
    for number in range(6):
        parts = [Segment(USER, True), Segment(f"more {number}\n", False), Segment(ASSISTANT + THINK, True)]
        extend(talk, *parts, ids=made.encode(parts))
        events = await answer(made, talk)
        text = said(events) or tokenizer.decode(sampled(events))
        extend(talk, Segment(text, True), ids=sampled(events) or None, sampled=True)
    await made.close()
    assert talk.has_tokens is ids
    for before, after in itertools.pairwise(exchange.body for exchange in server.seen):
        assert after.startswith(before.removesuffix(b"]}") + b",")
    final = json.loads(server.seen[-1].body)["prompt"]
    whole = "".join(segment.text for segment in talk.segments())
    assert tokenizer.decode(final) + text == whole


async def test_each_stretch_is_encoded_once_and_cutting_forgets_only_the_rest(tokenizer: Any) -> None:
    Counting.seen = []
    prompt = GrowingPrompt(Counting(tokenizer))
    talk = conversation(Segment(BOS, True), tokenizer=tokenizer)
    for number in range(4):
        extend(talk, Segment(f"turn {number}", True), ids=None)
        await prompt.follow(talk)
    assert Counting.seen == [f"turn {number}" for number in range(4)]
    before = array(prompt)
    talk.cut(3)
    extend(talk, Segment("another", True), ids=None)
    await prompt.follow(talk)
    assert Counting.seen[4:] == ["another"]
    kept = tokenizer.encode_segments([Segment(BOS, True)])
    kept += [id for number in range(2) for id in tokenizer.encode(f"turn {number}", True)]
    assert array(prompt) == kept + tokenizer.encode("another", True)
    assert before[: len(kept)] == kept


async def test_another_opening_is_noticed(tokenizer: Any) -> None:
    prompt = GrowingPrompt(OwnTokens(tokenizer))
    talk = conversation(Segment(BOS, True), tokenizer=tokenizer)
    extend(talk, Segment("x", False), ids=[40, 41])
    await prompt.follow(talk)
    talk.replace_prompt(Entry(EntryKind.PROMPT, 0, (Segment(BOS + "y", True),), (0, 55)))
    await prompt.follow(talk)
    assert array(prompt) == [0, 55, 40, 41]


async def test_any_history_of_appending_and_cutting_ends_in_the_transcripts_ids(tokenizer: Any) -> None:
    chance = random.Random(7)
    prompt = GrowingPrompt(OwnTokens(tokenizer))
    talk = Transcript()
    for _ in range(300):
        entries = len(talk.entries)
        if entries and chance.random() < 0.2:
            talk.cut(chance.randrange(entries + 1))
        else:
            ids = tuple(chance.randrange(500) for _ in range(chance.randrange(4)))
            kind = EntryKind.USER if talk.entries else EntryKind.PROMPT
            talk.append(Entry(kind, 0, (), ids))
        if chance.random() < 0.7:
            await prompt.follow(talk)
            assert array(prompt) == talk.tokens()
            more = [9, 8][: chance.randrange(3)]
            assert json.loads(prompt.json(more)) == [*talk.tokens(), *more]


async def test_ids_of_another_tokenizer_are_not_sent(serve: Any, tokenizer: Any) -> None:
    """A session may go on with a server that tokenizes itself."""

    async def handler(exchange: Any) -> None:
        if exchange.path == "/tokenize":
            ids = [len(json.loads(exchange.body)["prompt"])]
            await exchange.answer(body=json.dumps({"tokens": ids}).encode())
            return
        end = {"choices": [{"text": "Hi." + EOS, "finish_reason": "stop"}]}
        await exchange.answer(body=json.dumps(end).encode())

    server = await serve(handler)
    talk = conversation(Segment(BOS, True), Segment("abc", False), tokenizer=tokenizer)
    made = backend(server.profile(tokenizer="server"), ServerKind.VLLM)
    assert said(await answer(made, talk)) == "Hi." + EOS
    assert json.loads(server.seen[-1].body)["prompt"] == [len(BOS), 3]
    await made.close()
