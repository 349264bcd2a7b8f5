"""`/v1/completions`: raw prompts, as text or ids, one or several; the text or ids that follow."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dsv4_agent.backends.turn_constraint import TurnConstraint, turn_constraint
from dsv4_agent.dsml.events import FinishReason
from dsv4_agent.server.api_errors import Json, bad_request
from dsv4_agent.server.bodies import read_body
from dsv4_agent.server.clients import client_of
from dsv4_agent.server.completion_body import CompletionBody
from dsv4_agent.server.prefix_report import synced
from dsv4_agent.server.request_checks import check_stops, stops_of
from dsv4_agent.server.sampled_text import SampledText, shown_bytes
from dsv4_agent.server.service import Service
from dsv4_agent.server.stop_strings import StopStrings
from dsv4_agent.server.streaming import EventStream, merged, unless_gone
from dsv4_agent.server.turns import Begun, Ended, Sampled, TokenOdds, Turn, TurnRequest

__all__ = ["completions"]

_USUAL_TOKENS = 16
"""What OpenAI's endpoint samples where `max_tokens` is missing."""


async def completions(request: Request) -> Response:
    """Answer `POST /v1/completions`."""
    service: Service = request.app.state.service
    body = await read_body(request, CompletionBody, service.limits)
    _refuse(body, service)
    client = client_of(request, body.user)
    wanted = await asyncio.to_thread(_wanted, body, service, client)
    answer = _Answer(service.model.name, body)
    choices: list[_Choice] = []
    try:
        for index, (turn, held) in enumerate(wanted):
            choices.append(_Choice(index, body, service, turn, held))
    except BaseException:
        _cancel(choices)
        raise
    if body.stream:
        return EventStream(answer.chunks(choices), lambda: _cancel(choices))
    try:
        return Json(await unless_gone(request, answer.whole(choices)))
    finally:
        _cancel(choices)


def _cancel(choices: list[_Choice]) -> None:
    for choice in choices:
        choice.turn.cancel()


def _refuse(body: CompletionBody, service: Service) -> None:
    """What isn't offered is said, not ignored, where ignoring would change the answer."""
    if body.n not in (None, 1):
        raise bad_request("Only n=1 is supported.", "n")
    if body.best_of not in (None, 1):
        raise bad_request("best_of is not supported.", "best_of")
    if body.echo:
        raise bad_request("echo is not supported: the prompt is known to you.", "echo")
    if body.suffix:
        raise bad_request("suffix is not supported: the model has no fill-in-the-middle.", "suffix")
    if body.logit_bias:
        raise bad_request("logit_bias is not supported.", "logit_bias")
    check_stops(body.stop, service.limits)


def _prompts(body: CompletionBody, service: Service) -> list[tuple[int, ...]]:
    """The ids of each prompt; in a text, special tokens are recognised, as other servers do."""
    match body.prompt:
        case str() as text:
            texts: list[str | list[int]] = [text]
        case [int(), *_] as ids:
            texts = [ids]  # type: ignore[list-item]
        case several:
            texts = list(several)  # type: ignore[arg-type]
    if not texts:
        raise bad_request("The prompt is empty.", "prompt")
    if len(texts) > service.limits.prompts:
        raise bad_request(f"At most {service.limits.prompts} prompts may come at once.", "prompt")
    codec = service.model.codec
    prompts = [tuple(codec.encode(p, True) if isinstance(p, str) else p) for p in texts]
    for prompt in prompts:
        wrong = next((token for token in prompt if not 0 <= token < codec.size), None)
        if wrong is not None:
            raise bad_request(f"Token id {wrong} is outside the vocabulary of {codec.size}.", "prompt")
    return prompts


def _wanted(body: CompletionBody, service: Service, client: str) -> list[tuple[TurnRequest, TurnConstraint]]:
    """The turns that are asked for. Reads and compiles: not for the event loop."""
    return [_turn_request(body, service, prompt, client) for prompt in _prompts(body, service)]


def _turn_request(
    body: CompletionBody, service: Service, prompt: tuple[int, ...], client: str
) -> tuple[TurnRequest, TurnConstraint]:
    held = _constraint(body, service, prompt)
    sampling = service.sampling(
        prompt,
        max_tokens=body.max_tokens or _USUAL_TOKENS,
        temperature=body.temperature,
        top_p=body.top_p,
        min_p=body.min_p,
        top_k=body.top_k,
        seed=body.seed,
        thinking_budget=body.dsv4.thinking_budget if body.dsv4 is not None else None,
    )
    request = TurnRequest(
        prompt,
        sampling,
        constraint=held.constraint,
        logprobs=body.logprobs,
        client=client,
        marks=service.marks(prompt),
    )
    return request, held


def _constraint(body: CompletionBody, service: Service, prompt: tuple[int, ...]) -> TurnConstraint:
    """What the extension asks for."""
    asked = body.dsv4
    if asked is None:
        return TurnConstraint(None, None)
    if asked.continues > len(prompt):
        raise bad_request("More tokens continue the turn than the prompt has.", "dsv4.continues")
    return turn_constraint(
        asked.tools,
        asked.grammar,
        asked.answer_schema,
        prompt,
        service.model.codec,
        asked.dialect or service.model.dialect,
        continues=asked.continues,
    )


@dataclass(slots=True)
class _Piece:
    """What one token, or the end, adds to a choice."""

    index: int
    text: str = ""
    ids: list[int] = field(default_factory=list)
    odds: list[tuple[int, TokenOdds]] = field(default_factory=list)
    finish: str | None = None
    extension: dict[str, Any] | None = None


class _Choice:
    """One prompt's answer as it grows. Starts the turn; raises `ApiError` where there is no place for it."""

    def __init__(
        self, index: int, body: CompletionBody, service: Service, request: TurnRequest, held: TurnConstraint
    ) -> None:
        self.index = index
        self.prompt_tokens = len(request.prompt)
        self.sampled = 0
        self.begun = Begun()
        self.codec = service.model.codec
        self._held = held
        self._body = body
        self._text = self._reader()
        self.measured, self.offset = self._reader(), 0
        self._stops = StopStrings(stops_of(body.stop))
        self.turn: Turn = service.start(request)

    def _reader(self) -> SampledText:
        return SampledText(self.codec, skip_special=self._body.skip_special_tokens is not False)

    async def pieces(self) -> AsyncGenerator[_Piece, None]:
        """The answer, piece by piece; the last one has `finish`."""
        eos = self.codec.eos_id
        try:
            async for event in self.turn:
                match event:
                    case Begun():
                        self.begun = event
                        if self._body.dsv4 is not None and self._body.stream:
                            yield _Piece(self.index, extension=self._beginning())
                    case Sampled(id, odds):
                        self.sampled += 1
                        text = "" if id == eos else self._stops.feed(self._text.push(id))
                        yield _Piece(self.index, text, [id], [] if odds is None else [(id, odds)])
                        if self._stops.hit is not None:
                            yield self._last("", "stop", {})
                            return
                    case Ended(reason, kv_bytes):
                        rest = self._stops.feed(self._text.flush()) + self._stops.finish()
                        yield self._last(
                            rest, "stop" if reason is FinishReason.STOP else "length", dict(kv_bytes)
                        )
        finally:
            self.turn.cancel()

    def _last(self, text: str, finish: str, kv_bytes: dict[str, int]) -> _Piece:
        extension: dict[str, Any] | None = None
        if self._body.dsv4 is not None:
            used = self._held.calls
            extension = {
                **self._beginning(),
                "grammar": None if used is None else {"tokens": used.counted, "violations": used.violations},
                "kv_bytes": kv_bytes,
            }
        return _Piece(self.index, text, finish=finish, extension=extension)

    def _beginning(self) -> dict[str, Any]:
        """What is known before the first token."""
        known: dict[str, Any] = {"synced": synced(self.begun)}
        return known if self._held.problem is None else {**known, "notice": self._held.problem}


class _Answer:
    """The response's frame around its choices."""

    def __init__(self, model: str, body: CompletionBody) -> None:
        self._model = model
        self._body = body
        self._frame = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    async def chunks(self, choices: list[_Choice]) -> AsyncGenerator[Mapping[str, Any], None]:
        """A chunk a token."""
        async for piece in merged([choice.pieces() for choice in choices]):
            chunk = {**self._frame, "choices": [self._choice(piece, choices)]}
            if piece.extension is not None:
                chunk["dsv4"] = piece.extension
            yield chunk
        options = self._body.stream_options
        if options is not None and options.include_usage:
            yield {**self._frame, "choices": [], "usage": _usage(choices)}

    async def whole(self, choices: list[_Choice]) -> dict[str, Any]:
        """Everything in one object."""
        wholes = [_Piece(choice.index) for choice in choices]
        async for piece in merged([choice.pieces() for choice in choices]):
            whole = wholes[piece.index]
            whole.text += piece.text
            whole.ids += piece.ids
            whole.odds += piece.odds
            whole.finish, whole.extension = piece.finish, piece.extension
        shown = [self._choice(whole, choices) for whole in wholes]
        answer = {**self._frame, "choices": shown, "usage": _usage(choices)}
        if len(wholes) == 1 and wholes[0].extension is not None:
            answer["dsv4"] = wholes[0].extension
        elif self._body.dsv4 is not None:
            shown = [{**choice, "dsv4": whole.extension} for choice, whole in zip(shown, wholes, strict=True)]
            answer["choices"] = shown
        return answer

    def _choice(self, piece: _Piece, choices: list[_Choice]) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "index": piece.index,
            "text": piece.text,
            "logprobs": self._logprobs(piece, choices[piece.index]) if piece.odds else None,
            "finish_reason": piece.finish,
        }
        if self._body.return_token_ids:
            shown["token_ids"] = piece.ids
        return shown

    def _logprobs(self, piece: _Piece, choice: _Choice) -> dict[str, Any]:
        """The log-probabilities in the form of OpenAI's completions."""
        codec = choice.codec
        tokens, offsets = [], []
        for token, _ in piece.odds:
            tokens.append(shown_bytes(codec, token)[0])
            offsets.append(choice.offset)  # in the text, where bytes count once they are a character
            choice.offset += len(choice.measured.push(token))
        top = [{shown_bytes(codec, id)[0]: value for id, value in odds.top} for _, odds in piece.odds]
        return {
            "tokens": tokens,
            "token_logprobs": [odds.logprob for _, odds in piece.odds],
            "top_logprobs": top if self._body.logprobs else None,
            "text_offset": offsets,
        }


def _usage(choices: list[_Choice]) -> dict[str, Any]:
    read = sum(choice.prompt_tokens for choice in choices)
    written = sum(choice.sampled for choice in choices)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": sum(choice.begun.reused for choice in choices)},
    }
