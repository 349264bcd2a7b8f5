"""A model behind a chat completions endpoint.

The server renders the conversation and reads the model's text for us, so what comes back are reasoning,
answer and calls. Requests only ever grow at their end, which is what a server's prefix cache lives on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from dsv4_agent.backends.base import (
    BackendEvent,
    BackendInfo,
    BackendKind,
    BackendNotice,
    Conversation,
    Finished,
    GenerationRequest,
    SampledReasoning,
)
from dsv4_agent.backends.chat_server.body import RequestBody
from dsv4_agent.backends.chat_server.calls import TooManyCallsError
from dsv4_agent.backends.chat_server.chunks import UnreadableChunkError, read_chunk
from dsv4_agent.backends.chat_server.manners import Manners, manners_of
from dsv4_agent.backends.chat_server.parameters import parameters
from dsv4_agent.backends.chat_server.refusals import lesson, remedy
from dsv4_agent.backends.chat_server.turn import BrokenTurnError, EndlessAnswerError, TurnReader
from dsv4_agent.backends.facts import ServerFacts
from dsv4_agent.backends.http.client import ServerClient
from dsv4_agent.backends.http.errors import BrokenStreamError, ServerError, clean, of_object
from dsv4_agent.backends.http.retries import RetryPolicy, retrying
from dsv4_agent.backends.pricing import cost_of
from dsv4_agent.backends.profile import ServerProfile
from dsv4_agent.backends.text import CHARACTERS_PER_TOKEN
from dsv4_agent.dsml.segments import Segment

DEFAULT_WINDOW: Final = 131_072
"""Tokens, where neither the profile nor the server tells."""
_MOST_LESSONS: Final = 12
_AFTERWARDS: Final = 2.0
"""Seconds for what may follow a complete answer: the count of tokens."""
_REFUSED: Final = frozenset({400, 422})
_PATH: Final = "chat/completions"
_INLINE: Final = (
    "the server leaves the reasoning inside the answer: start it with its reasoning parser "
    '(vLLM and SGLang: --reasoning-parser), or set protocol = "tokens"'
)
_T = TypeVar("_T")


class ChatServerBackend:
    """Answers from a server's chat completions endpoint.

    A refusal that names a field is learned from: the field is left out for good, and the user is told. Raises
    `ModelError` for a profile that can't be used.
    """

    def __init__(
        self, profile: ServerProfile, facts: ServerFacts, *, policy: RetryPolicy | None = None
    ) -> None:
        model = profile.model or facts.model or next(iter(facts.models), "default")
        window = profile.context or facts.context or DEFAULT_WINDOW
        self._info = BackendInfo(model, BackendKind.SERVER, window, renders=True)
        self._profile = profile
        self._policy = policy or RetryPolicy(profile.retries)
        self._client = ServerClient(profile)
        self._manners = manners_of(facts.kind)
        self._body = RequestBody(model, self._manners)
        self._opened = False

    @property
    def info(self) -> BackendInfo:
        return self._info

    @property
    def vocabulary(self) -> None:
        return None

    def encode(self, segments: Sequence[Segment]) -> None:
        return None

    async def generate(
        self, conversation: Conversation, request: GenerationRequest
    ) -> AsyncIterator[BackendEvent]:
        asked = _Asked(conversation, request, TurnReader(request.max_tokens))
        attempts = retrying(self._policy, lambda: self._attempt(asked), lambda: asked.reader.begun)
        async with _closing(attempts) as events:
            async for event in events:
                yield event
        self._use(self._manners.adopting(asked.reader.reasoning_field))
        if asked.reader.unopened and not self._opened:
            self._opened = True
            yield BackendNotice(_INLINE)

    async def close(self) -> None:
        """Close the connections; safe to call twice."""
        await self._client.aclose()

    async def _attempt(self, asked: _Asked) -> AsyncIterator[BackendEvent]:
        """One try, and again at once where a refusal has taught something."""
        for _ in range(_MOST_LESSONS):
            request = asked.request
            reader = asked.reader = TurnReader(request.max_tokens, opened=self._opened)
            yield SampledReasoning("")
            fields = parameters(request, self._profile, self._manners)
            body = self._body.build(asked.conversation.messages_by_entry(), request.tools, fields)
            try:
                async with _closing(self._stream(asked, body)) as events:
                    async for event in events:
                        yield event
                return
            except ServerError as error:
                if error.retryable:
                    for call in reader.leftovers():  # nothing runs of it: the turn begins anew
                        yield call
                notice = self._learn(asked, error, {*fields, *self._manners.reasoning})
            if notice is not None:
                yield BackendNotice(notice)
        raise ServerError(f"{self._client.where} refuses every request; see dsv4 doctor", reason="refused")

    async def _stream(self, asked: _Asked, body: bytes) -> AsyncIterator[BackendEvent]:
        where, reader = self._client.where, asked.reader
        try:
            async with _closing(self._client.stream(_PATH, body)) as stream:
                while (data := await _next(stream, reader)) is not None:
                    try:
                        chunk = read_chunk(data)
                    except UnreadableChunkError:
                        if reader.complete:
                            continue  # the answer is whole, whatever a proxy puts behind it
                        raise
                    if chunk.error is not None and not reader.complete:
                        raise of_object(where, chunk.error)
                    for event in reader.read(chunk):
                        yield event
            for event in reader.end(estimated_input=len(body) // CHARACTERS_PER_TOKEN):
                yield self._priced(event) if isinstance(event, Finished) else event
        except UnreadableChunkError as error:
            message = (
                f"{where} sent something unreadable ({clean(str(error))}); is it an OpenAI-style server?"
            )
            raise BrokenStreamError(message, reason="unreadable") from error
        except (EndlessAnswerError, TooManyCallsError) as error:
            raise ServerError(f"{where}: {error}; see the server's log", reason="endless") from error
        except BrokenTurnError as error:
            raise asked.broken(where, error.reason) from error

    def _learn(self, asked: _Asked, error: ServerError, sent: Collection[str]) -> str | None:
        """Ask in another way next time; what the user should know of it.

        Raises `error`, with its remedy, where another request would be refused as well.
        """
        if error.status not in _REFUSED or asked.reader.begun:
            raise error
        message = str(error)
        learned = lesson(message, self._manners, sent)
        if learned is None:
            help = remedy(message)
            if help is None:
                raise error
            raise ServerError(f"{message.rpartition(';')[0]}; {help}", reason=error.reason) from error
        if learned.room is not None:
            if learned.room >= asked.request.max_tokens:
                raise error
            asked.request = replace(asked.request, max_tokens=learned.room)
        self._use(learned.manners)
        return learned.told

    def _use(self, manners: Manners) -> None:
        if manners != self._manners:
            self._manners = manners
            self._body.use(manners)

    def _priced(self, finished: Finished) -> Finished:
        usage, prices = finished.usage, self._profile.prices
        if prices is None or not usage.counted:
            return finished
        cost = cost_of(
            prices,
            prompt=usage.input_tokens,
            cached=usage.cached_input_tokens,
            output=usage.output_tokens,
        )
        return replace(finished, usage=replace(usage, cost=cost, currency=prices.currency))


@dataclass(slots=True)
class _Asked:
    """One generation: what is asked, and the reader of the attempt under way."""

    conversation: Conversation
    request: GenerationRequest
    reader: TurnReader
    filtered: bool = False

    def broken(self, where: str, reason: str) -> ServerError:
        """The error of an answer that the server ended badly; a content filter gets one more chance."""
        if reason == "content_filter" and self.filtered:
            message = f"the content filter of {where} ended the answer twice; put the task in other words"
            return ServerError(message, reason=reason)
        self.filtered = self.filtered or reason == "content_filter"
        return BrokenStreamError(f"{where} did not finish its answer ({reason}); try again", reason=reason)


async def _next(stream: AsyncIterator[str], reader: TurnReader) -> str | None:
    """The next event. A complete answer is not lost to a server that does not come to an end."""
    if not reader.complete:
        return await anext(stream, None)
    try:
        async with asyncio.timeout(_AFTERWARDS):
            return await anext(stream, None)
    except (TimeoutError, ServerError):
        return None


@asynccontextmanager
async def _closing(events: AsyncIterator[_T]) -> AsyncIterator[AsyncIterator[_T]]:
    """Close a generator where it was used, so that a connection ends here and now."""
    try:
        yield events
    finally:
        if isinstance(events, AsyncGenerator):
            await events.aclose()
