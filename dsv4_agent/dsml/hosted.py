"""The prompt as the hosted API writes it (DeepSeek's `deepseek-recipe`), where it differs in a few bytes.

Differences: V4 moves all system texts to the front; each assistant message writes its own header; reasoning
of past turns is kept exactly when tools are declared; a V4 call without arguments has no blank line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dsv4_agent.dsml import dialect as wire
from dsv4_agent.dsml.conversation import Message, flatten_text, merge, sort_results
from dsv4_agent.dsml.dialect import Dialect, Encoder, Thinking, effort_prefix, tags_of
from dsv4_agent.dsml.errors import UnknownRoleError
from dsv4_agent.dsml.pieces import functions_of, write_calls, write_response_format, write_tools
from dsv4_agent.dsml.segments import Segment, SegmentBuilder

ROLES = ("system", "user", "assistant", "tool", "latest_reminder")


def render_hosted(
    messages: Sequence[Mapping[str, Any]],
    *,
    thinking: Thinking | str,
    effort: str | int | None = None,
    dialect: Dialect = Dialect.V4_0731,
    drop_thinking: bool = True,
    add_bos: bool = True,
    calls_open: bool = False,
) -> list[Segment]:
    """Render messages whose tools and response format are attached to system messages.

    `calls_open` ends the prompt inside a block of calls, as a required tool choice does. An assistant message
    with `prefix` is left open for continuation. Raises a `RenderError`.
    """
    thinks = thinking == Thinking.THINKING
    tools = [tool for message in messages for tool in message.get("tools") or ()]
    formats = [message["response_format"] for message in messages if message.get("response_format")]
    turns = _turns(messages, dialect)
    lead = turns.pop(0)["content"] if turns and turns[0]["role"] == "system" else ""
    keeps = bool(tools) or not drop_thinking

    out = SegmentBuilder()
    out.structure(wire.BOS if add_bos else "")
    prefix = effort_prefix(effort, dialect) if thinks else ""
    if dialect is Dialect.V41 and (prefix or lead or tools or formats):
        out.structure(wire.SYSTEM)
    out.structure(prefix)
    out.content(lead)
    if tools:
        out.structure("\n\n")
        write_tools(out, functions_of(tools), dialect)
    for schema in formats:
        out.structure("\n\n")
        write_response_format(out, schema, dialect, Encoder.API)
    for turn in turns:
        _write_turn(out, turn, dialect, thinks, keeps)
    if not (turns and turns[-1].get("prefix")):
        out.structure(wire.ASSISTANT + (wire.THINK if thinks else wire.END_THINK))
        if calls_open:
            out.structure(f"\n\n<{tags_of(dialect).calls}>\n")
    return out.segments()


def _turns(messages: Sequence[Mapping[str, Any]], dialect: Dialect) -> list[Message]:
    """Messages with plain text contents; system texts where the dialect wants them, empty ones dropped."""
    plain = [{**message, "content": flatten_text(message.get("content"))} for message in messages]
    systems = [message for message in plain if message.get("role") == "system" and message["content"]]
    if dialect is Dialect.V41:
        kept = [message for message in plain if message.get("role") != "system" or message["content"]]
        return sort_results(merge(kept, dialect))
    others = [message for message in plain if message.get("role") != "system"]
    front = [{"role": "system", "content": "\n\n".join(message["content"] for message in systems)}]
    return sort_results(merge([*(front if systems else ()), *_joined_users(others)], dialect))


def _joined_users(messages: Sequence[Message]) -> list[Message]:
    result: list[Message] = []
    for message in messages:
        if message.get("role") == "user" and result and result[-1].get("role") == "user":
            texts = (result[-1]["content"], message["content"])
            result[-1] = {**result[-1], "content": "\n\n".join(text for text in texts if text)}
        else:
            result.append(message)
    return result


def _write_turn(out: SegmentBuilder, turn: Message, dialect: Dialect, thinks: bool, keeps: bool) -> None:
    match turn.get("role"):
        case "system":
            out.structure(wire.SYSTEM)
            out.content(turn["content"])
        case "user":
            out.structure(wire.USER)
            for position, block in enumerate(turn["content_blocks"]):
                out.structure("\n\n" if position else "")
                is_result = block["type"] == "tool_result"
                out.structure("<tool_result>" if is_result else "")
                out.content(block["content"] if is_result else block["text"])
                out.structure("</tool_result>" if is_result else "")
        case "latest_reminder":
            out.structure(wire.LATEST_REMINDER)
            out.content(turn["content"])
        case "assistant":
            _write_assistant(out, turn, dialect, thinks, keeps)
        case role:
            raise UnknownRoleError(
                f"unknown variant `{role}`, expected one of {', '.join(f'`{known}`' for known in ROLES)}"
            )


def _write_assistant(out: SegmentBuilder, turn: Message, dialect: Dialect, thinks: bool, keeps: bool) -> None:
    reasoning = str(turn.get("reasoning_content") or "")
    continued = bool(turn.get("prefix"))
    out.structure(wire.ASSISTANT)
    if thinks and (keeps or continued):
        out.structure(wire.THINK)
        out.content(reasoning)
        out.structure("" if continued and not turn["content"] else wire.END_THINK)
    else:
        out.structure(wire.END_THINK)
    out.content(turn["content"])
    if turn.get("tool_calls"):
        write_calls(out, turn["tool_calls"], dialect, Encoder.API)
    out.structure("" if continued else wire.EOS)
