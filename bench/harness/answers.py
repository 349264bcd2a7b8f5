"""What a scripted model says in each of the protocols that agents speak: a call of the shell, or the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

DONE = "Done."
Body = Mapping[str, Any]
Event = tuple[str | None, object]
"""The name of a server-sent event, if the protocol names them, and its data."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer: a call of `tool`, or where that is None the last words.

    Attributes:
        number: counted from 1; makes ids that differ.
    """

    number: int
    tool: str | None = None
    arguments: Mapping[str, object] | None = None

    @property
    def call_id(self) -> str:
        return f"call_{self.number:05d}"

    @property
    def json_arguments(self) -> str:
        return json.dumps(self.arguments)


def chat(turn: Turn, body: Body) -> Iterator[Event]:
    """`/v1/chat/completions` as a stream."""
    shared = {
        "id": f"chatcmpl-{turn.number}",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": str(body.get("model")),
    }

    def chunk(finish: str | None = None, **delta: object) -> Event:
        return None, {**shared, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    yield chunk(role="assistant", content="" if turn.tool else DONE)
    if turn.tool:
        yield chunk(tool_calls=[{"index": 0, **_chat_call(turn)}])
    yield chunk("tool_calls" if turn.tool else "stop")
    yield None, {**shared, "choices": [], "usage": _chat_usage()}


def whole_chat(turn: Turn, body: Body) -> dict[str, object]:
    """The same where no stream was asked for."""
    message: dict[str, object] = {"role": "assistant", "content": None if turn.tool else DONE}
    if turn.tool:
        message["tool_calls"] = [_chat_call(turn)]
    finish = "tool_calls" if turn.tool else "stop"
    return {
        "id": f"chatcmpl-{turn.number}",
        "object": "chat.completion",
        "created": 1,
        "model": str(body.get("model")),
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": _chat_usage(),
    }


def responses(turn: Turn, body: Body) -> Iterator[Event]:
    """`/v1/responses` as a stream."""
    id = f"resp_{turn.number}"
    begun = {"id": id, "object": "response", "created_at": 1, "model": str(body.get("model")), "output": []}
    item: dict[str, object]
    if turn.tool:
        item = {
            "type": "function_call",
            "id": f"fc_{turn.number}",
            "call_id": turn.call_id,
            "name": turn.tool,
            "arguments": turn.json_arguments,
            "status": "completed",
        }
    else:
        item = {
            "type": "message",
            "id": f"msg_{turn.number}",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": DONE, "annotations": []}],
        }
    usage = {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 15,
    }
    yield _named({"type": "response.created", "response": {**begun, "status": "in_progress"}})
    yield _named({"type": "response.output_item.added", "output_index": 0, "item": item})
    yield _named({"type": "response.output_item.done", "output_index": 0, "item": item})
    finished = {**begun, "status": "completed", "output": [item], "usage": usage}
    yield _named({"type": "response.completed", "response": finished})


def messages(turn: Turn, body: Body) -> Iterator[Event]:
    """`/v1/messages` as a stream."""
    usage = {"input_tokens": 10, "output_tokens": 1}
    begun = {
        "id": f"msg_{turn.number:05d}",
        "type": "message",
        "role": "assistant",
        "model": str(body.get("model")),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    if turn.tool:
        block: dict[str, object] = {
            "type": "tool_use",
            "id": f"toolu_{turn.number:05d}",
            "name": turn.tool,
            "input": {},
        }
        delta = {"type": "input_json_delta", "partial_json": turn.json_arguments}
    else:
        block = {"type": "text", "text": ""}
        delta = {"type": "text_delta", "text": DONE}
    yield _named({"type": "message_start", "message": begun})
    yield _named({"type": "content_block_start", "index": 0, "content_block": block})
    yield _named({"type": "content_block_delta", "index": 0, "delta": delta})
    yield _named({"type": "content_block_stop", "index": 0})
    reason = {"stop_reason": "tool_use" if turn.tool else "end_turn", "stop_sequence": None}
    yield _named({"type": "message_delta", "delta": reason, "usage": {"output_tokens": 5}})
    yield _named({"type": "message_stop"})


def completions(encode: Callable[[str], list[int]], turn: Turn, body: Body) -> Iterator[Event]:
    """`/v1/completions` in V4's own markup, with ids as vLLM sends them."""
    text = f"</think>{DONE}"
    if turn.tool:
        parameters = "".join(
            f'<｜DSML｜parameter name="{name}" string="true">{value}</｜DSML｜parameter>\n'
            for name, value in (turn.arguments or {}).items()
        )
        text = (
            f'</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="{turn.tool}">\n{parameters}'
            "</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
        )
    shared = {"id": f"cmpl-{turn.number}", "object": "text_completion", "created": 1}
    ids = [*encode(text), *encode("<｜end▁of▁sentence｜>")]
    said = {"index": 0, "text": text, "token_ids": ids, "finish_reason": "stop"}
    yield None, {**shared, "choices": [said]}
    yield None, {**shared, "choices": [], "usage": _chat_usage()}


def _chat_call(turn: Turn) -> dict[str, object]:
    function = {"name": turn.tool, "arguments": turn.json_arguments}
    return {"id": turn.call_id, "type": "function", "function": function}


def _chat_usage() -> dict[str, int]:
    return {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


def _named(data: dict[str, object]) -> Event:
    return str(data["type"]), data
