"""`/v1/messages`: chats in Anthropic's shape, streamed or whole, and `count_tokens`."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dsv4_agent.server.api_errors import ApiError, Json
from dsv4_agent.server.bodies import read_body
from dsv4_agent.server.chat_turn import Called, ChatTurn, Over, Spoken, Thought, count_prompt, open_chat
from dsv4_agent.server.clients import client_of
from dsv4_agent.server.messages_body import MessagesBody
from dsv4_agent.server.service import Service
from dsv4_agent.server.streaming import EventStream, unless_gone

__all__ = ["count_tokens", "messages"]


async def messages(request: Request) -> Response:
    """Answer `POST /v1/messages`."""
    service: Service = request.app.state.service
    body = await read_body(request, MessagesBody, service.limits)
    turn = await open_chat(service, body.request(client_of(request, body.user)))
    answer = _Answer(service.model.name)
    if body.stream:
        return EventStream(
            answer.events(turn), turn.cancel, done=False, named=True, failure=ApiError.anthropic_body
        )
    try:
        return Json(await unless_gone(request, answer.whole(turn)))
    except RecursionError:
        what = "The arguments of the model's call are nested too deeply to be sent whole. Ask for a stream."
        raise ApiError(500, what, kind="server_error", code="too_deep") from None
    finally:
        turn.cancel()


async def count_tokens(request: Request) -> Response:
    """Answer `POST /v1/messages/count_tokens`."""
    service: Service = request.app.state.service
    body = await read_body(request, MessagesBody, service.limits)
    asked = body.request(client_of(request, body.user))
    return Json({"input_tokens": await asyncio.to_thread(count_prompt, service, asked)})


class _Answer:
    """The response's frame around one turn."""

    def __init__(self, model: str) -> None:
        self._frame = {
            "id": f"msg_{secrets.token_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": model,
        }

    async def events(self, turn: ChatTurn) -> AsyncGenerator[Mapping[str, Any], None]:
        """The turn as a stream of blocks."""
        usage = {"input_tokens": len(turn.prompt), "output_tokens": 0}
        begun: dict[str, Any] = {
            **self._frame,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        yield {"type": "message_start", "message": begun}
        blocks = _Blocks()
        async for event in turn.events():
            match event:
                case Thought(text):
                    for chunk in blocks.more("thinking", text):
                        yield chunk
                case Spoken(text) if text:
                    for chunk in blocks.more("text", text):
                        yield chunk
                case Called():
                    for chunk in blocks.call(event):
                        yield chunk
                case Over():
                    for chunk in blocks.end():
                        yield chunk
                    delta = {"stop_reason": _reason(event), "stop_sequence": event.stop}
                    yield {"type": "message_delta", "delta": delta, "usage": _usage(event)}
        yield {"type": "message_stop"}

    async def whole(self, turn: ChatTurn) -> dict[str, Any]:
        """The turn as one object."""
        content: list[dict[str, Any]] = []
        answer: dict[str, Any] = {**self._frame, "content": content}
        async for event in turn.events():
            match event:
                case Thought(text):
                    _append(content, "thinking", text)
                case Spoken(text) if text:
                    _append(content, "text", text)
                case Called(_, id, name, arguments):
                    given = json.loads(arguments)
                    content.append({"type": "tool_use", "id": id, "name": name, "input": given})
                case Over():
                    answer |= {
                        "stop_reason": _reason(event),
                        "stop_sequence": event.stop,
                        "usage": _usage(event),
                    }
        return answer


class _Blocks:
    """The blocks of a stream: one is open at a time."""

    def __init__(self) -> None:
        self._index = -1
        self._kind: str | None = None

    def more(self, kind: str, text: str) -> list[dict[str, Any]]:
        chunks = [] if self._kind == kind else [*self.end(), self._start({"type": kind, **_EMPTY[kind]})]
        self._kind = kind
        delta = {"type": f"{kind}_delta", kind: text}
        return [*chunks, {"type": "content_block_delta", "index": self._index, "delta": delta}]

    def call(self, call: Called) -> list[dict[str, Any]]:
        block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        chunks = [*self.end(), self._start(block)]
        self._kind = "tool_use"
        delta = {"type": "input_json_delta", "partial_json": call.arguments}
        return [
            *chunks,
            {"type": "content_block_delta", "index": self._index, "delta": delta},
            *self.end(),
        ]

    def end(self) -> list[dict[str, Any]]:
        if self._kind is None:
            return []
        kind, self._kind = self._kind, None
        stop = {"type": "content_block_stop", "index": self._index}
        if kind != "thinking":
            return [stop]
        # Clients send a thought back only with a signature; nobody here checks it.
        delta = {"type": "signature_delta", "signature": "none"}
        return [{"type": "content_block_delta", "index": self._index, "delta": delta}, stop]

    def _start(self, block: dict[str, Any]) -> dict[str, Any]:
        self._index += 1
        return {"type": "content_block_start", "index": self._index, "content_block": block}


_EMPTY: Mapping[str, dict[str, str]] = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}}


def _append(content: list[dict[str, Any]], kind: str, text: str) -> None:
    if content and content[-1]["type"] == kind:
        content[-1][kind] += text
    elif kind == "thinking":
        content.append({"type": kind, kind: text, "signature": "none"})
    else:
        content.append({"type": kind, kind: text})


def _reason(over: Over) -> str:
    if over.stop is not None:
        return "stop_sequence"
    return {"tool_calls": "tool_use", "length": "max_tokens"}.get(over.finish, "end_turn")


def _usage(over: Over) -> dict[str, int]:
    usage = over.usage
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_read_input_tokens": usage.cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.sampled,
    }
