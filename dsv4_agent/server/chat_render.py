"""A chat request as prompt segments, in the bytes that the served model was trained on.

V4-Nano learnt from the encoder that ships with checkpoints, real models are prompted as DeepSeek's API
prompts them. Each assistant message is marked, so that its exact tokens can be put in its place where they
are still known.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from dsv4_agent.backends.turn_constraint import calls_opener
from dsv4_agent.dsml.conversation import flatten_text
from dsv4_agent.dsml.dialect import ASSISTANT, EOS, Encoder, Thinking
from dsv4_agent.dsml.errors import InvalidMessageError, RenderError
from dsv4_agent.dsml.render import render
from dsv4_agent.dsml.request import render_request
from dsv4_agent.dsml.segments import Segment
from dsv4_agent.dsml.turn import header
from dsv4_agent.server.api_errors import bad_request
from dsv4_agent.server.chat_request import ChatRequest, ChoiceKind, effort_of
from dsv4_agent.server.turns import ServedModel

__all__ = ["Marks", "normalised", "render_chat"]

_RESULT_CLOSER = "</tool_result>"
_NEUTRAL_CLOSER = "<\\/tool_result>"
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


class Marks:
    """Marks the beginnings of assistant messages in a prompt, in a way that no client can foresee."""

    def __init__(self) -> None:
        self._nonce = secrets.token_hex(16)
        self._pattern = re.compile(f"\ue000{self._nonce}:(\\d+)\ue001")

    def put(self, index: int, text: str) -> str:
        """The text with the mark of message `index` before it."""
        return f"\ue000{self._nonce}:{index}\ue001{text}"

    def find(self, text: str) -> tuple[int, str] | None:
        """The index of the message whose mark begins the text, and the text without it."""
        found = self._pattern.match(text)
        return None if found is None else (int(found[1]), text[found.end() :])


def normalised(messages: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Messages with known roles, text contents and calls with JSON texts. Raises `ApiError`."""
    return tuple(_normal(index, message) for index, message in enumerate(messages))


def render_chat(
    request: ChatRequest, messages: Sequence[Mapping[str, Any]], model: ServedModel, marks: Marks
) -> list[Segment]:
    """The prompt of normalised messages, assistant ones marked. Raises `ApiError`."""
    thinks = request.thinks(model.preset.thinking)
    shown = [_shown(index, message, marks) for index, message in enumerate(messages)]
    try:
        if model.encoder is Encoder.API:
            return _as_the_api(request, shown, model, thinks)
        return _as_the_checkpoint(request, shown, model, thinks)
    except RenderError as error:
        raise bad_request(_one_line(error), "messages") from None


def _as_the_api(
    request: ChatRequest, messages: list[dict[str, Any]], model: ServedModel, thinks: bool
) -> list[Segment]:
    body = {
        "messages": messages,
        "tools": [{"type": "function", "function": _function(tool)} for tool in request.offered],
        "tool_choice": request.choice.kind.value,
        "thinking": {"type": "enabled" if thinks else "disabled"},
        "reasoning_effort": effort_of(request.effort, model.dialect) if thinks else None,
        "response_format": request.response_format,
    }
    return render_request(body, model.dialect)


def _as_the_checkpoint(
    request: ChatRequest, messages: list[dict[str, Any]], model: ServedModel, thinks: bool
) -> list[Segment]:
    attached: dict[str, Any] = {}
    if request.offered:
        attached["tools"] = [{"function": _function(tool)} for tool in request.offered]
    if (schema := _schema(request.response_format)) is not None:
        attached["response_format"] = schema
    if attached:
        first = messages[0] if messages[0]["role"] == "system" else {"role": "system", "content": ""}
        rest = messages[1:] if messages[0]["role"] == "system" else messages
        messages = [{**first, **attached}, *rest]
    mode = Thinking.THINKING if thinks else Thinking.CHAT
    effort = effort_of(request.effort, model.dialect) or model.preset.effort
    segments = render(messages, thinking=mode, effort=effort, dialect=model.dialect)
    if not segments or ASSISTANT not in segments[-1].text.rpartition(EOS)[2] or not segments[-1].structure:
        segments += header(mode)  # this encoder writes none behind a last message that isn't the user's
    if request.choice.kind is ChoiceKind.REQUIRED:
        segments.append(Segment(calls_opener(model.dialect), True))
    return segments


def _schema(response_format: Mapping[str, Any] | None) -> object:
    match response_format:
        case {"type": "json_object"}:
            return {"type": "json_object"}
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return schema
    return None


def _function(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A function in the order in which the models have learnt to read it."""
    return {
        "name": tool["name"],
        "description": tool.get("description") or "",
        "parameters": tool.get("parameters") or {},
    }


def _shown(index: int, message: Mapping[str, Any], marks: Marks) -> dict[str, Any]:
    match message["role"]:
        case "assistant" if not message.get("prefix"):
            return {**message, "content": marks.put(index, message["content"])}
        case "tool":
            return {**message, "content": message["content"].replace(_RESULT_CLOSER, _NEUTRAL_CLOSER)}
    return dict(message)


def _normal(index: int, message: Mapping[str, Any]) -> dict[str, Any]:
    where = f"messages.{index}"
    role = _ROLES.get(str(message.get("role")))
    if role is None:
        raise bad_request(f"The role must be one of {', '.join(_ROLES)}.", f"{where}.role")
    try:
        content = flatten_text(_readable(message.get("content")))
    except InvalidMessageError:
        raise bad_request("Contents must be text, or a list of text parts.", f"{where}.content") from None
    normal: dict[str, Any] = {"role": role, "content": content}
    if role == "tool":
        normal["tool_call_id"] = str(message.get("tool_call_id") or "")
    if role != "assistant":
        return normal
    if message.get("prefix") is True:
        normal["prefix"] = True
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(reasoning, str):
        normal["reasoning_content"] = reasoning
    if calls := message.get("tool_calls"):
        if not isinstance(calls, list):
            raise bad_request("tool_calls must be a list.", f"{where}.tool_calls")
        normal["tool_calls"] = [_normal_call(call, where) for call in calls]
    return normal


def _readable(content: object) -> object:
    """A content whose refusals, of which official clients make parts, are texts."""
    if not isinstance(content, list):
        return content
    return [_said(part) for part in content]


def _said(part: object) -> object:
    match part:
        case {"type": "refusal", "refusal": str(text)}:
            return {"type": "text", "text": text}
    return part


def _normal_call(call: object, where: str) -> dict[str, Any]:
    match call:
        case {"function": {"name": str(name), **function}}:
            arguments = _arguments(function.get("arguments"))
            return {
                "id": _text(call, "id"),
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
    raise bad_request("A tool call needs a function with a name.", f"{where}.tool_calls")


def _arguments(given: object) -> str:
    """Arguments as the text of a JSON object; what is none becomes the value of one parameter."""
    text = given if isinstance(given, str) else json.dumps(given or {})
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text
    return (text or "{}") if isinstance(value, dict) else json.dumps({"arguments": text})


def _text(mapping: object, key: str) -> str:
    value = mapping.get(key) if isinstance(mapping, Mapping) else None
    return value if isinstance(value, str) else ""


def _one_line(error: RenderError) -> str:
    return " ".join(str(error).split())[:500]
