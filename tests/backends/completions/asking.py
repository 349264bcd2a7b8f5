"""Asking the backend in tests, and a server in vLLM's form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dsv4_agent.backends.base import Backend, BackendEvent, GenerationRequest, SampledIds, SampledText
from dsv4_agent.backends.completions.backend import CompletionsBackend
from dsv4_agent.backends.facts import ServerFacts, ServerKind
from dsv4_agent.backends.http.retries import RetryPolicy
from dsv4_agent.backends.profile import ServerProfile
from dsv4_agent.dsml.dialect import Dialect, Thinking
from dsv4_agent.session.transcript import Transcript


async def _no_pause(seconds: float) -> None:
    return


QUICK = RetryPolicy(5, sleep=_no_pause)


def request(**changes: Any) -> GenerationRequest:
    given = {"max_tokens": 100, "thinking": Thinking.THINKING, "dialect": Dialect.V4, "temperature": 0.0}
    return GenerationRequest(**{**given, **changes})


def backend(profile: ServerProfile, kind: ServerKind, **facts: Any) -> CompletionsBackend:
    made = CompletionsBackend(profile, ServerFacts(kind=kind, model="m", **facts), policy=QUICK)
    checked: Backend = made
    assert checked.info.tokenizes is (profile.tokenizer != "server")
    return made


async def answer(made: CompletionsBackend, talk: Transcript, **changes: Any) -> list[BackendEvent]:
    """One turn; the backend stays open."""
    return [event async for event in made.generate(talk, request(**changes))]


async def ask(made: CompletionsBackend, talk: Transcript, **changes: Any) -> list[BackendEvent]:
    """One turn, and the backend is closed."""
    try:
        return await answer(made, talk, **changes)
    finally:
        await made.close()


def sse(*events: object) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def sampled(events: Sequence[BackendEvent]) -> list[int]:
    return [id for event in events if isinstance(event, SampledIds) for id in event.ids]


def said(events: Sequence[BackendEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, SampledText))


class Vllm:
    """Streams `text` in vLLM's form, from where the prompt leaves off; may cut the first connection.

    `late` tells the end in an event of its own, as some servers do. `opening` are the prompt's tokens.
    """

    def __init__(
        self, tokenizer: Any, text: str, opening: int, *, ids: bool = True, late: bool = False
    ) -> None:
        self.whole = [*tokenizer.encode(text, True), tokenizer.eos_id]
        self.prompts: list[Any] = []
        self.bodies: list[dict[str, Any]] = []
        self.cut: int | None = None
        self._tokenizer = tokenizer
        self._opening, self._ids, self._late = opening, ids, late

    def again(self, cut: int | None) -> None:
        """Forget what was asked, and cut the next answer there."""
        self.cut = cut
        self.prompts, self.bodies = [], []

    def stream(self, done: int) -> bytes:
        """All bytes of the answer to a prompt that holds `done` tokens of it."""
        decoder = self._tokenizer.stream_decoder()
        for id in self.whole[:done]:
            decoder.push(id)
        events: list[dict[str, Any]] = []
        for place, id in enumerate(self.whole[done:], done):
            last = place == len(self.whole) - 1
            text = "" if last else decoder.push(id)
            choice = {"index": 0, "text": text, "finish_reason": "stop" if last and not self._late else None}
            events.append({"choices": [{**choice, **({"token_ids": [id]} if self._ids else {})}]})
        if self._late:
            events.append({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]})
        usage = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
        return sse(*events, {"choices": [], "usage": usage}) + b"data: [DONE]\n\n"

    async def __call__(self, exchange: Any) -> None:
        body = json.loads(exchange.body)
        self.bodies.append(body)
        self.prompts.append(body["prompt"])
        data = self.stream(len(body["prompt"]) - self._opening)
        await exchange.begin()
        await exchange.send(data[: self.cut] if len(self.prompts) == 1 else data)
        exchange.writer.close()
