"""A chat completion request body -> the prompt the hosted API would give the model, or its refusal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from dsv4_agent.dsml.dialect import Dialect, Thinking
from dsv4_agent.dsml.errors import RequestError
from dsv4_agent.dsml.hosted import ROLES, render_hosted
from dsv4_agent.dsml.segments import Segment

MAX_TOKENS: Final = 393_216
_EFFORTS: Final = {
    "minimal": "low",
    "low": "low",
    "medium": "high",
    "high": "high",
    "xhigh": "high",
    "ultra": "max",
    "max": "max",
}


def render_request(body: Mapping[str, Any], dialect: Dialect = Dialect.V4_0731) -> list[Segment]:
    """Render a request with top-level `tools`, `thinking`, `reasoning_effort`, `response_format`.

    Raises `RequestError` with the API's own wording where it would answer 400.
    """
    messages = body.get("messages") or []
    _check(messages, body)
    effort = body.get("reasoning_effort")
    if effort is not None and effort not in (*_EFFORTS, "none"):
        raise RequestError(
            f"unknown variant `{effort}`, expected one of {', '.join(f'`{e}`' for e in ('none', *_EFFORTS))}"
        )
    disabled = (body.get("thinking") or {}).get("type") == "disabled" or effort == "none"
    choice = body.get("tool_choice") or "auto"
    if choice not in ("auto", "none") and not disabled:
        raise RequestError("Thinking mode does not support this tool_choice")
    attached: dict[str, Any] = {}
    if choice != "none" and body.get("tools"):
        attached["tools"] = [_tool(tool) for tool in body["tools"]]
    if (schema := _schema(body.get("response_format"), messages)) is not None:
        attached["response_format"] = schema
    return render_hosted(
        [{"role": "system", "content": "", **attached}, *messages] if attached else messages,
        thinking=Thinking.CHAT if disabled else Thinking.THINKING,
        effort=_EFFORTS.get(effort or "high", "high"),
        dialect=dialect,
        calls_open=choice not in ("auto", "none"),
    )


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool.get("function") or {}
    normal = {
        "name": function.get("name"),
        "description": function.get("description") or "",
        "parameters": function.get("parameters") or {},
    }
    if function.get("strict"):
        normal["strict"] = True
    return {"function": normal}


def _schema(response_format: Mapping[str, Any] | None, messages: Sequence[Mapping[str, Any]]) -> object:
    match (response_format or {}).get("type", "text"):
        case "json_object":
            if "json" not in str([message.get("content") for message in messages]).lower():
                raise RequestError(
                    "Prompt must contain the word 'json' in some form to use 'response_format' of type"
                    " 'json_object'."
                )
            return {"type": "json_object"}
        case "json_schema":
            described = (response_format or {}).get("json_schema")
            if described is None:
                raise RequestError("missing field `json_schema`")
            return described.get("schema")
    return None


def _check(messages: Sequence[Mapping[str, Any]], body: Mapping[str, Any]) -> None:
    for message in messages:
        if message.get("role") not in ROLES:
            raise RequestError(
                f"unknown variant `{message.get('role')}`,"
                f" expected one of {', '.join(f'`{role}`' for role in ROLES)}"
            )
    if not messages:
        raise RequestError("Empty input messages")
    limit = body.get("max_tokens")
    if limit is not None and not 1 <= limit <= MAX_TOKENS:
        raise RequestError(f"Invalid max_tokens value, the valid range of max_tokens is [1, {MAX_TOKENS}]")
    if any(message.get("prefix") for message in messages[:-1]):
        raise RequestError("prefix with message which is not final message or message role is not assistant")
    _check_results(messages)


def _check_results(messages: Sequence[Mapping[str, Any]]) -> None:
    waiting: set[str] = set()
    for message in [*messages, {"role": "end"}]:
        if message.get("role") == "tool":
            if not waiting:
                raise RequestError(
                    "Messages with role 'tool' must be a response to a preceding message with 'tool_calls'"
                )
            waiting.discard(str(message.get("tool_call_id")))
            continue
        if waiting:
            raise RequestError(
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each"
                " 'tool_call_id'. (insufficient tool messages following tool_calls message)"
            )
        waiting = {str(call.get("id")) for call in message.get("tool_calls") or ()}
