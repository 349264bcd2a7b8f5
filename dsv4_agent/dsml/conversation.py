"""What happens to chat messages before they are rendered: merging, sorting, dropping of old reasoning.

The rules are the official encoders' (merge_tool_messages, sort_tool_results_by_call_order,
_drop_thinking_messages); inputs are never changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dsv4_agent.dsml.dialect import Dialect
from dsv4_agent.dsml.errors import InvalidMessageError

Message = dict[str, Any]

_KEPT_USER_KEYS = ("task", "wo_eos", "mask")
_KEPT_ROLES = frozenset({"user", "system", "tool", "latest_reminder", "direct_search_results"})
_IMAGE_TYPES = frozenset({"image", "image_url"})


def merge(messages: Sequence[Mapping[str, Any]], dialect: Dialect) -> list[Message]:
    """Fold tool results and neighbouring user texts into user messages with `content_blocks`."""
    merged: list[Message] = []
    for message in messages:
        last = merged[-1] if merged and merged[-1].get("role") == "user" else None
        match message.get("role"):
            case "tool":
                block = {
                    "type": "tool_result",
                    "tool_use_id": message.get("tool_call_id", ""),
                    "content": message.get("content", ""),
                }
                if last is None:
                    merged.append({"role": "user", "content_blocks": [block]})
                else:
                    last["content_blocks"].append(block)
            case "user":
                blocks = _user_blocks(message, dialect)
                if last is not None and last.get("task") is None:
                    last["content_blocks"].extend(blocks)
                    continue
                turn: Message = {"role": "user", "content_blocks": blocks}
                turn.update({key: message[key] for key in _KEPT_USER_KEYS if key in message})
                if dialect is Dialect.V41 and message.get("tools"):
                    turn["tools"] = message["tools"]  # V4.1 keeps every key; only `tools` is read again
                merged.append(turn)
            case _:
                merged.append(dict(message))
    return merged


def sort_results(messages: Sequence[Message]) -> list[Message]:
    """Put the tool results of each user message into the order of the calls they answer."""
    order: dict[str, int] = {}
    result: list[Message] = []
    for message in messages:
        calls = message.get("tool_calls")
        if message.get("role") == "assistant" and calls:
            ids = [_call_id(call) for call in calls]
            order = {call_id: index for index, call_id in enumerate(ids) if call_id}
        elif message.get("role") == "user" and order:
            message = _sorted_results(message, order)
        result.append(message)
    return result


def last_user_index(messages: Sequence[Message], dialect: Dialect) -> int:
    """Index of the message that starts the current turn, or -1."""
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        match message.get("role"):
            case "user" if dialect is Dialect.V41:
                if not _only_results(message):
                    return index
            case "user":
                return index
            case "developer":
                return index
            case "system" if dialect is Dialect.V41 and index > 0:
                return index
    return -1


def drop_old_thinking(messages: Sequence[Message], dialect: Dialect) -> list[Message]:
    """Remove reasoning (and developer messages) that lie before the current turn."""
    boundary = last_user_index(messages, dialect)
    result: list[Message] = []
    for index, message in enumerate(messages):
        if index >= boundary or message.get("role") in _KEPT_ROLES:
            result.append(message)
        elif message.get("role") == "assistant":
            result.append({key: value for key, value in message.items() if key != "reasoning_content"})
    return result


def flatten_text(content: object) -> str:
    """Text of an OpenAI content value: a string, None, or a list of text parts."""
    match content:
        case None:
            return ""
        case str():
            return content
        case list():
            parts = [part.get("text") for part in content if isinstance(part, Mapping)]
            if len(parts) == len(content) and all(isinstance(part, str) for part in parts):
                return "\n\n".join(part for part in parts if isinstance(part, str))
    raise InvalidMessageError("message content must be a string or a list of text parts")


def _user_blocks(message: Mapping[str, Any], dialect: Dialect) -> list[Message]:
    if dialect is Dialect.V41:
        given = message.get("content_blocks")
        if given is None and isinstance(message.get("content"), list):
            given = message["content"]
        if given is not None:
            return [_image_or_block(block) for block in given]
    return [{"type": "text", "text": message.get("content", "")}]


def _image_or_block(block: Mapping[str, Any]) -> Message:
    if block.get("type") in _IMAGE_TYPES:
        return {"type": "image"}
    content = block.get("content")
    if block.get("type") == "tool_result" and isinstance(content, list):
        return {**block, "content": [_image_or_block(part) for part in content]}
    return dict(block)


def _call_id(call: Mapping[str, Any]) -> str:
    return str(call.get("id") or call.get("function", {}).get("id", "") or "")


def _sorted_results(message: Message, order: Mapping[str, int]) -> Message:
    blocks = message["content_blocks"]
    results = [block for block in blocks if block.get("type") == "tool_result"]
    if len(results) < 2:
        return message
    in_order = iter(sorted(results, key=lambda block: order.get(block.get("tool_use_id", ""), 0)))
    slots = [next(in_order) if block.get("type") == "tool_result" else block for block in blocks]
    return {**message, "content_blocks": slots}


def _only_results(message: Message) -> bool:
    blocks = message["content_blocks"]
    return bool(blocks) and all(block.get("type") == "tool_result" for block in blocks)
