"""`/v1/chat/completions`: chats in OpenAI's shape, streamed or whole.

Reasoning comes as `reasoning_content` (DeepSeek, SGLang, llama.cpp) and as `reasoning` (vLLM), so that every
client finds it. A tool call comes as id and name first, then its arguments.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dsv4_agent.server.api_errors import Json
from dsv4_agent.server.bodies import read_body
from dsv4_agent.server.chat_body import ChatBody
from dsv4_agent.server.chat_turn import Called, ChatTurn, ChatUsage, Over, Spoken, Thought, open_chat
from dsv4_agent.server.clients import client_of
from dsv4_agent.server.prefix_report import synced
from dsv4_agent.server.sampled_text import shown_bytes
from dsv4_agent.server.service import Service
from dsv4_agent.server.streaming import EventStream, unless_gone
from dsv4_agent.server.turns import Codec, TokenOdds

__all__ = ["chat_completions"]


async def chat_completions(request: Request) -> Response:
    """Answer `POST /v1/chat/completions`."""
    service: Service = request.app.state.service
    body = await read_body(request, ChatBody, service.limits)
    turn = await open_chat(service, body.request(client_of(request, body.user)))
    answer = _Answer(service, body)
    if body.stream:
        return EventStream(answer.chunks(turn), turn.cancel)
    try:
        return Json(await unless_gone(request, answer.whole(turn)))
    finally:
        turn.cancel()


class _Answer:
    """The response's frame around one turn."""

    def __init__(self, service: Service, body: ChatBody) -> None:
        self._codec = service.model.codec
        self._body = body
        self._frame = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": service.model.name,
        }

    async def chunks(self, turn: ChatTurn) -> AsyncGenerator[Mapping[str, Any], None]:
        """The turn as a stream of deltas."""
        yield self._chunk({"role": "assistant", "content": ""})
        async for event in turn.events():
            match event:
                case Thought(text):
                    yield self._chunk({"reasoning_content": text, "reasoning": text})
                case Spoken(text, odds):
                    yield self._chunk({"content": text}, odds=odds)
                case Called(index, id, name, arguments):
                    head = {"name": name, "arguments": ""}
                    yield self._chunk(
                        {"tool_calls": [{"index": index, "id": id, "type": "function", "function": head}]}
                    )
                    yield self._chunk(
                        {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}
                    )
                case Over():
                    yield {**self._chunk({}, finish=event.finish), **_notes(event, self._body)}
                    options = self._body.stream_options
                    if options is not None and options.include_usage:
                        usage = {"choices": [], "usage": _usage(event.usage)}
                        yield {**self._frame, "object": "chat.completion.chunk", **usage}

    async def whole(self, turn: ChatTurn) -> dict[str, Any]:
        """The turn as one object."""
        thought: list[str] = []
        spoken: list[str] = []
        calls: list[dict[str, Any]] = []
        odds: list[tuple[int, TokenOdds]] = []
        answer: dict[str, Any] = {**self._frame, "object": "chat.completion"}
        async for event in turn.events():
            match event:
                case Thought(text):
                    thought.append(text)
                case Spoken(text, more):
                    spoken.append(text)
                    odds.extend(more)
                case Called(_, id, name, arguments):
                    function = {"name": name, "arguments": arguments}
                    calls.append({"id": id, "type": "function", "function": function})
                case Over():
                    message: dict[str, Any] = {"role": "assistant", "content": "".join(spoken) or None}
                    if not calls:
                        message["content"] = "".join(spoken)
                    reasoning = "".join(thought)
                    if reasoning:
                        message |= {"reasoning_content": reasoning, "reasoning": reasoning}
                    if calls:
                        message["tool_calls"] = calls
                    choice = {
                        "index": 0,
                        "message": message,
                        "logprobs": self._logprobs(odds) if self._body.logprobs else None,
                        "finish_reason": event.finish,
                    }
                    answer |= {
                        "choices": [choice],
                        "usage": _usage(event.usage),
                        **_notes(event, self._body),
                    }
        return answer

    def _chunk(
        self,
        delta: dict[str, Any],
        *,
        finish: str | None = None,
        odds: Sequence[tuple[int, TokenOdds]] = (),
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": finish}
        choice["logprobs"] = self._logprobs(odds) if odds else None
        return {**self._frame, "object": "chat.completion.chunk", "choices": [choice]}

    def _logprobs(self, odds: Sequence[tuple[int, TokenOdds]]) -> dict[str, Any]:
        return {"content": [self._token(token, odds) for token, odds in odds], "refusal": None}

    def _token(self, token: int, odds: TokenOdds) -> dict[str, Any]:
        top = [_logprob(self._codec, other, value) for other, value in odds.top]
        return {**_logprob(self._codec, token, odds.logprob), "top_logprobs": top}


def _logprob(codec: Codec, token: int, value: float) -> dict[str, Any]:
    text, data = shown_bytes(codec, token)
    return {"token": text, "logprob": max(value, -9999.0), "bytes": data}


def _usage(usage: ChatUsage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.sampled,
        "total_tokens": usage.prompt + usage.sampled,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
        "prompt_cache_hit_tokens": usage.cached,
        "prompt_cache_miss_tokens": usage.prompt - usage.cached,
    }


def _notes(over: Over, body: ChatBody) -> dict[str, Any]:
    """What goes beyond OpenAI's fields: what could not be read, and, where asked, the prefix's fate."""
    notes: dict[str, Any] = {}
    if over.warnings:
        notes["warning"] = " ".join(over.warnings)
    if body.dsv4 is not None:
        notes["dsv4"] = {"synced": synced(over.begun)}
    return notes
