"""`/v1/responses`: chats in the shape of OpenAI's responses, streamed or whole; nothing is stored."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dsv4_agent.server.api_errors import ApiError, Json
from dsv4_agent.server.bodies import read_body
from dsv4_agent.server.carried_thought import carried
from dsv4_agent.server.chat_turn import Called, ChatTurn, ChatUsage, Over, Spoken, Thought, open_chat
from dsv4_agent.server.clients import client_of
from dsv4_agent.server.responses_body import ResponsesBody
from dsv4_agent.server.service import Service
from dsv4_agent.server.streaming import EventStream, unless_gone

__all__ = ["responses"]

Event = dict[str, Any]


async def responses(request: Request) -> Response:
    """Answer `POST /v1/responses`."""
    service: Service = request.app.state.service
    body = await read_body(request, ResponsesBody, service.limits)
    turn = await open_chat(service, body.request(client_of(request, body.user or body.prompt_cache_key)))
    answer = _Answer(service.model.name, body)
    if body.stream:
        return EventStream(answer.events(turn), turn.cancel, done=False, named=True, failure=answer.failed)
    try:
        return Json(await unless_gone(request, answer.whole(turn)))
    finally:
        turn.cancel()


class _Answer:
    """The response object as it grows, and the events that tell of it."""

    def __init__(self, model: str, body: ResponsesBody) -> None:
        self._numbers = itertools.count()
        self._output: list[dict[str, Any]] = []
        self._open: _Item | None = None
        self._carries_thoughts = body.carries_thoughts
        self._response: dict[str, Any] = {
            "id": f"resp_{secrets.token_hex(16)}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": model,
            "output": [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {
                "effort": None if body.reasoning is None else body.reasoning.effort,
                "summary": None,
            },
            "store": False,
            "temperature": body.temperature,
            "text": {"format": body.shown_format},
            "tool_choice": body.shown_choice,
            "tools": body.tools or [],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": None,
            "metadata": {},
        }

    async def whole(self, turn: ChatTurn) -> dict[str, Any]:
        """The turn as one object."""
        async for _ in self.events(turn):
            pass
        return self._response

    async def events(self, turn: ChatTurn) -> AsyncGenerator[Mapping[str, Any], None]:
        """The turn as a stream of items."""
        yield self._event("response.created", response=dict(self._response))
        yield self._event("response.in_progress", response=dict(self._response))
        async for event in turn.events():
            match event:
                case Thought(text):
                    for shown in self._more(_REASONING, text):
                        yield shown
                case Spoken(text) if text:
                    for shown in self._more(_MESSAGE, text):
                        yield shown
                case Called():
                    for shown in self._call(event):
                        yield shown
                case Over():
                    for shown in self._close():
                        yield shown
                    yield self._end(event)

    def failed(self, error: ApiError) -> Event:
        """The last event of a stream that broke off."""
        told = {"code": error.code or error.kind, "message": str(error)}
        self._response |= {"status": "failed", "error": told, "output": self._output}
        return self._event("response.failed", response=dict(self._response))

    def _end(self, over: Over) -> Event:
        cut = over.finish == "length"
        self._response |= {
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": self._output,
            "usage": _usage(over.usage),
        }
        name = "response.incomplete" if cut else "response.completed"
        return self._event(name, response=dict(self._response))

    def _more(self, kind: _Kind, text: str) -> list[Event]:
        shown: list[Event] = []
        if self._open is None or self._open.kind is not kind:
            shown += self._close()
            item = self._open = _Item(kind, len(self._output))
            shown.append(self._added(item.shown("in_progress", content=[])))
            shown.append(self._part(item, "response.content_part.added", ""))
        item = self._open
        item.texts.append(text)
        shown.append(self._of(item, f"response.{kind.event}.delta", delta=text, **kind.extra))
        return shown

    def _close(self) -> list[Event]:
        item, self._open = self._open, None
        if item is None:
            return []
        text = "".join(item.texts)
        done = item.shown("completed", content=[item.kind.part(text)])
        if item.kind is _REASONING and self._carries_thoughts:
            done["encrypted_content"] = carried(text)
        self._output.append(done)
        return [
            self._of(item, f"response.{item.kind.event}.done", text=text, **item.kind.extra),
            self._part(item, "response.content_part.done", text),
            self._event("response.output_item.done", output_index=item.index, item=done),
        ]

    def _call(self, call: Called) -> list[Event]:
        shown = self._close()
        index = len(self._output)
        item = {
            "id": f"fc_{secrets.token_hex(12)}",
            "type": "function_call",
            "call_id": call.id,
            "name": call.name,
            "arguments": "",
            "status": "in_progress",
        }
        place = {"item_id": item["id"], "output_index": index}
        done = {**item, "arguments": call.arguments, "status": "completed"}
        self._output.append(done)
        return [
            *shown,
            self._event("response.output_item.added", output_index=index, item=item),
            self._event("response.function_call_arguments.delta", **place, delta=call.arguments),
            self._event("response.function_call_arguments.done", **place, arguments=call.arguments),
            self._event("response.output_item.done", output_index=index, item=done),
        ]

    def _added(self, item: Mapping[str, Any]) -> Event:
        return self._event("response.output_item.added", output_index=len(self._output), item=item)

    def _part(self, item: _Item, name: str, text: str) -> Event:
        return self._of(item, name, part=item.kind.part(text))

    def _of(self, item: _Item, name: str, **fields: Any) -> Event:
        return self._event(name, item_id=item.id, output_index=item.index, content_index=0, **fields)

    def _event(self, name: str, **fields: Any) -> Event:
        return {"type": name, "sequence_number": next(self._numbers), **fields}


class _Kind:
    """What differs between a thought and an answer."""

    def __init__(self, type: str, prefix: str, event: str, part: Mapping[str, Any], **extra: Any) -> None:
        self.type, self.prefix, self.event, self.extra = type, prefix, event, extra
        self._part = part

    def part(self, text: str) -> dict[str, Any]:
        return {**self._part, "text": text}


_MESSAGE = _Kind(
    "message", "msg", "output_text", {"type": "output_text", "annotations": [], "logprobs": []}, logprobs=[]
)
_REASONING = _Kind("reasoning", "rs", "reasoning_text", {"type": "reasoning_text"})


class _Item:
    """An item of text that is being written."""

    def __init__(self, kind: _Kind, index: int) -> None:
        self.kind, self.index = kind, index
        self.id = f"{kind.prefix}_{secrets.token_hex(12)}"
        self.texts: list[str] = []

    def shown(self, status: str, *, content: list[dict[str, Any]]) -> dict[str, Any]:
        item: dict[str, Any] = {"id": self.id, "type": self.kind.type, "status": status, "content": content}
        return {**item, "role": "assistant"} if self.kind is _MESSAGE else {**item, "summary": []}


def _usage(usage: ChatUsage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.sampled,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.sampled,
    }
