"""A Llama that learns one conversation by heart, so that a server without V4's layers does a whole task.

What it samples is then known: whatever comes out otherwise, the server or our reading of it has changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bench.interop.checkpoints import new_llama, save_llama
from bench.interop.foreign_protocol import profile_of
from bench.interop.peers import VLLM_MODEL
from bench.interop.served import Served
from dsv4_agent.backends.base import GenerationRequest
from dsv4_agent.backends.chat_server.body import RequestBody
from dsv4_agent.backends.chat_server.manners import manners_of
from dsv4_agent.backends.chat_server.parameters import parameters
from dsv4_agent.backends.facts import ServerKind
from dsv4_agent.backends.http.client import ServerClient
from dsv4_agent.backends.profile import ServerProtocol
from dsv4_agent.dsml.dialect import Dialect, Thinking
from dsv4_agent.session.transcript import Transcript
from tests.server.agent_prompt import nano_functions

_SURE: Final = 0.98
"""Probability that every word must have in the end: rounding in the server then changes nothing."""
_MOST_STEPS: Final = 2000
_RATE: Final = 3e-3


class NotLearntError(Exception):
    """The conversation didn't stick."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """A conversation as ids; `said` marks those that the model is to say."""

    ids: tuple[int, ...]
    said: tuple[bool, ...]


def as_tokens(transcript: Transcript) -> Lesson:
    """The conversation as the token protocol sends it. The transcript must know its ids."""
    parts = [(entry.ids or (), entry.sampled) for entry in transcript.entries]
    return Lesson(
        tuple(token for ids, _ in parts for token in ids),
        tuple(sampled for ids, sampled in parts for _ in ids),
    )


async def as_chats(served: Served, transcript: Transcript) -> list[Lesson]:
    """The same conversation as the server renders our chat requests, turn by turn."""
    profile = profile_of(served, ServerProtocol.CHAT)
    manners = manners_of(ServerKind.VLLM)
    request = GenerationRequest(1, Thinking.THINKING, Dialect.V4, temperature=0.0)
    fields = parameters(request, profile, manners) | {"stream": False, "return_token_ids": True}
    del fields["stream_options"]
    client, lessons = ServerClient(profile), list[Lesson]()
    try:
        for index, entry in enumerate(transcript.entries):
            if not entry.sampled:
                continue
            body = RequestBody(VLLM_MODEL, manners)
            asked = body.build(transcript.messages_by_entry()[:index], nano_functions(), fields)
            answer = await client.post_json("chat/completions", json.loads(asked), seconds=300)
            prompt = tuple(answer["prompt_token_ids"])
            said = entry.ids or ()
            lessons.append(Lesson(prompt + said, (False,) * len(prompt) + (True,) * len(said)))
    finally:
        await client.aclose()
    return lessons


def learn(lessons: Iterable[Lesson], place: Path) -> Path:
    """A checkpoint that says what the lessons say, greedily. Raises `NotLearntError`."""
    import torch
    from torch.nn import functional

    model = new_llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE)
    drills = [
        (torch.tensor([lesson.ids]), torch.tensor([lesson.said[1:]])) for lesson in joined(tuple(lessons))
    ]
    for _ in range(_MOST_STEPS):
        least = 1.0
        for ids, said in drills:
            logits = model(input_ids=ids[:, :-1]).logits[said]
            words = ids[:, 1:][said]
            (functional.cross_entropy(logits, words) / len(drills)).backward()
            sure = logits.detach().softmax(-1).gather(-1, words[:, None])
            least = min(least, float(sure.min()))
        if least > _SURE:
            return save_llama(model.eval(), place)
        optimizer.step()
        optimizer.zero_grad()
    raise NotLearntError(f"after {_MOST_STEPS} steps a word has a probability of {least:.2f}")


def joined(lessons: Sequence[Lesson]) -> list[Lesson]:
    """The lessons without those that another one goes on from."""
    kept: list[Lesson] = []
    for lesson in lessons:
        length = len(kept[-1].ids) if kept else 0
        if kept and lesson.ids[:length] == kept[-1].ids:
            lesson = replace(lesson, said=kept.pop().said + lesson.said[length:])
        kept.append(lesson)
    return kept
