"""A server as a source of tokens: ids go there, ids or text come back, nothing of it is interpreted there.

A stream that breaks is taken up where it broke: what was sampled becomes part of the prompt, so nothing is
lost and nothing comes twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final

from dsv4_agent.backends.base import (
    BackendEvent,
    BackendInfo,
    BackendKind,
    BackendNotice,
    Conversation,
    Finished,
    GenerationRequest,
    ModelError,
)
from dsv4_agent.backends.completions.forms import Chunk, Form, body_of, form_of, plain_prompt
from dsv4_agent.backends.completions.lost_ids import LostIds
from dsv4_agent.backends.completions.prompt import GrowingPrompt
from dsv4_agent.backends.completions.tokens import (
    OwnTokens,
    SegmentTokens,
    looks_like_structure,
    open_tokens,
)
from dsv4_agent.backends.completions.turn import SampledTurn
from dsv4_agent.backends.facts import ServerFacts, ServerKind
from dsv4_agent.backends.http.client import ServerClient
from dsv4_agent.backends.http.errors import BrokenStreamError, ServerError, of_object
from dsv4_agent.backends.http.retries import RetryPolicy, retrying
from dsv4_agent.backends.profile import ServerProfile
from dsv4_agent.dsml.dialect import GrammarMode
from dsv4_agent.dsml.events import FinishReason
from dsv4_agent.dsml.segments import Segment
from dsv4_agent.dsml.vocabulary import Vocabulary

_USUAL_WINDOW: Final = 131_072
_AFTERWARDS: Final = 2.0
"""Seconds that a server has to tell its counts once the answer is complete."""


class CompletionsBackend:
    """A `Backend` over a server's raw completions. Raises `ModelError` for a profile that can't work.

    What the profile leaves open comes from `facts`; `tokens` are its tokenizer where it is open already.
    """

    def __init__(
        self,
        profile: ServerProfile,
        facts: ServerFacts,
        *,
        client: ServerClient | None = None,
        tokens: SegmentTokens | None = None,
        policy: RetryPolicy | None = None,
    ) -> None:
        model = profile.model or facts.model
        self._client = client or ServerClient(profile)
        self._model = model or "default"
        self._profile = profile
        self._facts = facts
        self._tokens = tokens or open_tokens(profile.tokenizer, self._client, facts.kind, model)
        self._policy = policy or RetryPolicy(profile.retries)
        self._prompt = GrowingPrompt(self._tokens)
        self._noticed: set[str] = set()
        own = self._tokens if isinstance(self._tokens, OwnTokens) else None
        lossy = own is not None and facts.kind is ServerKind.LLAMA_CPP
        self._lost = LostIds(own.tokenizer) if own is not None and lossy else None
        window = profile.context or facts.context or _USUAL_WINDOW
        self._info = BackendInfo(self._model, BackendKind.SERVER, window, tokenizes=own is not None)

    @property
    def info(self) -> BackendInfo:
        return self._info

    @property
    def vocabulary(self) -> Vocabulary | None:
        return self._tokens.vocabulary

    def encode(self, segments: Sequence[Segment]) -> tuple[int, ...] | None:
        return self._tokens.encode_now(segments)

    async def generate(
        self, conversation: Conversation, request: GenerationRequest
    ) -> AsyncGenerator[BackendEvent, None]:
        turn = SampledTurn(self._client.where, self._tokens, request.max_tokens)
        attempts = retrying(self._policy, lambda: self._attempt(conversation, request, turn))
        async with aclosing(attempts) as events:
            async for event in events:
                if isinstance(event, BackendNotice):
                    if event.text in self._noticed:
                        continue
                    self._noticed.add(event.text)
                yield event
        for event in turn.close():
            yield event
        assert turn.finish is not None, "a turn without an end is a broken stream"
        counted = turn.grammar if request.grammar is GrammarMode.COUNTED else None
        prompt = self._prompt.count if self._form().takes_ids else None
        usage = turn.usage(prompt, self._profile.prices)
        yield Finished(turn.finish, usage, counted, turn.kv_bytes)

    async def close(self) -> None:
        await self._client.aclose()

    def _form(self) -> Form:
        return form_of(self._facts, self._model, reads_ids=self._tokens.vocabulary is not None)

    async def _attempt(
        self, conversation: Conversation, request: GenerationRequest, turn: SampledTurn
    ) -> AsyncGenerator[BackendEvent, None]:
        """Ask for what is missing of the turn: what was sampled of it stands behind the prompt."""
        turn.begin()
        if turn.finish is not None:
            return
        form = self._form()
        if form.takes_ids:
            await self._prompt.follow(conversation)
            sampled = turn.ids or await self._tokens.encode([Segment(turn.text, True)])
            prompt = self._prompt.json(sampled)
        else:
            prompt = plain_prompt([*_texts(conversation), turn.text])
        body = body_of(form, request, turn.sampled, prompt)
        async with aclosing(self._chunks(form, body)) as chunks:
            while (chunk := await _next(chunks, turn.finish)) is not None:
                for event in turn.take(chunk):
                    yield event
        if turn.finish is None:
            raise BrokenStreamError(f"{self._client.where} ended its answer in the middle; try again")

    async def _chunks(self, form: Form, body: bytes) -> AsyncGenerator[Chunk, None]:
        try:
            async with aclosing(self._client.stream(form.path, body)) as stream:
                async for data in stream:
                    chunk = form.read(self._event(data))
                    if self._lost is not None and chunk.ids:
                        chunk = replace(chunk, ids=self._lost.mended(chunk.text, chunk.ids))
                    yield chunk
        except ServerError as error:
            if (told := self._told(error)) is None:
                raise
            raise told from error

    def _event(self, data: str) -> dict[str, Any]:
        try:
            event = json.loads(data)
        except (ValueError, RecursionError) as error:
            message = f"{self._client.where} sent an event that is not JSON; check base_url and the server"
            raise BrokenStreamError(message, reason="not_json") from error
        if not isinstance(event, dict):
            message = f"{self._client.where} sent an event that is no object; check base_url and the server"
            raise BrokenStreamError(message, reason="not_json")
        if (told := event.get("error")) is not None:
            raise of_object(self._client.where, told)
        return event

    def _told(self, error: ServerError) -> ServerError | None:
        """The remedy for a prompt that is too long, if that is what the server says."""
        cause, _, _ = str(error).rpartition("; ")
        words = str(error).lower()
        if "context" in words and any(word in words for word in ("length", "exceed", "window", "maximum")):
            window = f"{self._info.context_window:,}"
            message = f"{cause or error}; we count on a window of {window} tokens: /compact, or set context"
            return ServerError(message, reason="context", status=error.status)
        return None


async def _next(chunks: AsyncIterator[Chunk], finish: FinishReason | None) -> Chunk | None:
    """The next piece. An answer that is complete is not lost to a server that doesn't come to an end."""
    if finish is None:
        return await anext(chunks, None)
    with contextlib.suppress(TimeoutError, ServerError):
        async with asyncio.timeout(_AFTERWARDS):
            return await anext(chunks, None)
    return None


def _texts(conversation: Conversation) -> list[str]:
    """The prompt as text, for a server that takes no ids. Raises `ModelError` where that isn't safe."""
    segments = conversation.segments()
    for segment in segments:
        if not segment.structure and looks_like_structure(segment.text):
            raise ModelError(
                "a text holds what this server would take for one of the model's special tokens: use a "
                "server that takes token ids, or the chat protocol"
            )
    return [segment.text for segment in segments]
