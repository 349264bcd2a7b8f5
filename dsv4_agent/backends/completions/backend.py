"""A server as a source of tokens: ids go there, ids or text come back, nothing of it is interpreted there.

A stream that breaks is taken up where it broke: what was sampled becomes part of the prompt, so nothing is
lost and nothing comes twice.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dsv4_agent.backends.base import (
    BackendEvent,
    BackendInfo,
    BackendKind,
    Conversation,
    Finished,
    GenerationRequest,
    GenerationUsage,
    ModelError,
    SampledIds,
    SampledText,
)
from dsv4_agent.backends.completions.forms import Chunk, Form, body_of, form_of, plain_prompt
from dsv4_agent.backends.completions.prompt import PromptIds
from dsv4_agent.backends.completions.tokens import SegmentTokens, looks_like_structure, open_tokens
from dsv4_agent.backends.facts import ServerFacts
from dsv4_agent.backends.http.client import ServerClient
from dsv4_agent.backends.http.errors import BrokenStreamError, ServerError, of_object
from dsv4_agent.backends.http.retries import RetryPolicy, retrying
from dsv4_agent.backends.pricing import cost_of
from dsv4_agent.backends.profile import ServerProfile
from dsv4_agent.backends.text import estimate_tokens
from dsv4_agent.dsml.dialect import EOS, GrammarMode
from dsv4_agent.dsml.events import FinishReason
from dsv4_agent.dsml.segments import Segment
from dsv4_agent.dsml.vocabulary import Vocabulary

_USUAL_WINDOW = 131_072


@dataclass(slots=True)
class _Turn:
    """One assistant turn as it comes, over all its attempts."""

    ids: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    finish: FinishReason | None = None
    last: Chunk = field(default_factory=Chunk)
    synced: bool = False

    @property
    def sampled(self) -> int:
        """Tokens sampled so far, estimated where there are no ids."""
        return len(self.ids) or estimate_tokens("".join(self.text))


class CompletionsBackend:
    """A `Backend` over a server's raw completions. Raises `ModelError` for a profile that can't work."""

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
        self._prompt = PromptIds(self._tokens)
        window = profile.context or facts.context or _USUAL_WINDOW
        own = self._tokens.vocabulary is not None
        self._info = BackendInfo(self._model, BackendKind.SERVER, window, tokenizes=own)

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
    ) -> AsyncIterator[BackendEvent]:
        turn = _Turn()
        form = self._form()
        if form.takes_ids:
            ids = await self._prompt.of(conversation)
            count = len(ids)
        else:
            ids, count = [], 0
            texts = _texts(conversation)

        async def attempt() -> AsyncIterator[BackendEvent]:
            room = max(1, request.max_tokens - turn.sampled)
            form = self._form()
            if form.takes_ids:
                prompt = self._prompt.json([*ids, *await self._resumed(turn)])
            else:
                prompt = plain_prompt([*texts, *turn.text])
            body = body_of(form, request, room, prompt)
            async for event in self._stream(form, body, turn):
                yield event

        async for event in retrying(self._policy, attempt):
            yield event
        async for event in self._end(turn, count, request):
            yield event

    async def close(self) -> None:
        await self._client.aclose()

    def _form(self) -> Form:
        return form_of(self._facts, self._model, reads_ids=self._tokens.vocabulary is not None)

    async def _resumed(self, turn: _Turn) -> list[int]:
        """The ids of what this turn has sampled before the connection broke."""
        if turn.ids or not turn.text:
            return turn.ids
        return await self._tokens.encode([Segment("".join(turn.text), True)])

    async def _stream(self, form: Form, body: bytes, turn: _Turn) -> AsyncIterator[BackendEvent]:
        async for data in self._client.stream(form.path, body):
            chunk = form.read(self._event(data))
            turn.last = _joined(turn.last, chunk)
            if chunk.synced is not None and not turn.synced:
                turn.synced = True
                yield chunk.synced
            if chunk.ids and self._tokens.vocabulary is not None and not turn.text:
                turn.ids += chunk.ids
                yield SampledIds(chunk.ids)
            elif chunk.text and not turn.ids:
                turn.text.append(chunk.text)
                yield SampledText(chunk.text)
            if chunk.finish is not None:
                turn.finish = chunk.finish
        if turn.finish is None or turn.finish is FinishReason.INTERRUPTED:
            turn.finish = None
            raise BrokenStreamError(f"{self._client.where} ended its answer in the middle; try again")

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
            raise self._told(of_object(self._client.where, told))
        return event

    def _told(self, error: ServerError) -> ServerError:
        words = str(error).lower()
        if "context" in words and any(word in words for word in ("length", "exceed", "window", "maximum")):
            window = f"{self._info.context_window:,}"
            message = f"{error}; the profile counts on a window of {window} tokens: set context, or /compact"
            return ServerError(message, reason="context", status=error.status)
        return error

    async def _end(
        self, turn: _Turn, prompt_tokens: int, request: GenerationRequest
    ) -> AsyncIterator[BackendEvent]:
        """What servers leave out: the end-of-turn token, the counts."""
        assert turn.finish is not None, "a turn without an end is a broken stream"
        if turn.finish is FinishReason.STOP:
            vocabulary = self._tokens.vocabulary
            eos = None if vocabulary is None else vocabulary.id_of(EOS)
            if turn.ids and eos is not None and turn.ids[-1] != eos:
                turn.ids.append(eos)
                yield SampledIds((eos,))
            elif not turn.ids and not "".join(turn.text[-1:]).endswith(EOS):
                turn.text.append(EOS)
                yield SampledText(EOS)
        last = turn.last
        prompt = last.prompt_tokens if last.prompt_tokens is not None else prompt_tokens
        cached = last.cached_tokens or 0
        usage = GenerationUsage(prompt, min(cached, prompt), turn.sampled)
        prices = self._profile.prices
        cost = cost_of(prices, prompt=prompt, cached=cached, output=usage.output_tokens)
        if cost is not None and prices is not None:
            usage = replace(usage, cost=cost, currency=prices.currency)
        counted = last.grammar if request.grammar is GrammarMode.COUNTED else None
        yield Finished(turn.finish, usage, counted, last.kv_bytes)


def _joined(before: Chunk, new: Chunk) -> Chunk:
    """The latest of every count."""
    return Chunk(
        prompt_tokens=before.prompt_tokens if new.prompt_tokens is None else new.prompt_tokens,
        cached_tokens=before.cached_tokens if new.cached_tokens is None else new.cached_tokens,
        output_tokens=before.output_tokens if new.output_tokens is None else new.output_tokens,
        grammar=new.grammar or before.grammar,
        kv_bytes=new.kv_bytes or before.kv_bytes,
    )


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
