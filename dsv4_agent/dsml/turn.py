"""What the append-only transcript puts in front of the model; history is never rendered again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dsv4_agent.dsml import dialect as wire
from dsv4_agent.dsml.dialect import Dialect, Thinking, effort_prefix
from dsv4_agent.dsml.pieces import write_tools
from dsv4_agent.dsml.segments import Segment, SegmentBuilder

_RESULT_CLOSER = "</tool_result>"
_NEUTRAL_CLOSER = "<\\/tool_result>"


@dataclass(frozen=True, slots=True)
class UserText:
    """Something the user (or the agent on the user's side) says."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolResultText:
    """What a tool gave back, as the model shall see it."""

    text: str


def opening(
    system: str,
    tools: Sequence[Mapping[str, Any]],
    *,
    thinking: Thinking,
    effort: str | int | None = None,
    dialect: Dialect = Dialect.V4,
) -> list[Segment]:
    """Everything before the first user turn: BOS, effort prefix, system prompt, tools section.

    Tools may be plain function objects or wrapped in `{"type": "function", "function": ...}`.
    Raises `InvalidEffortError`.
    """
    out = SegmentBuilder()
    out.structure(wire.BOS)
    prefix = effort_prefix(effort, dialect)
    prefix = prefix if thinking is Thinking.THINKING else ""
    if dialect is Dialect.V41 and (prefix or system or tools):
        out.structure(wire.SYSTEM)
    out.structure(prefix)
    out.content(system)
    if tools:
        out.structure("\n\n")
        write_tools(out, [tool.get("function", tool) for tool in tools], dialect)
    return out.segments()


def user_turn(
    blocks: Sequence[UserText | ToolResultText],
    *,
    thinking: Thinking,
    dialect: Dialect = Dialect.V4,
) -> list[Segment]:
    """One user turn and the header behind which the model writes.

    Results come before text in the order given; a `</tool_result>` inside a result is written
    `<\\/tool_result>`, everything else stays as it is.
    """
    out = SegmentBuilder()
    out.structure(wire.USER)
    for position, block in enumerate(blocks):
        if position:
            out.structure("\n\n")
        match block:
            case UserText(text):
                out.content(text)
            case ToolResultText(text):
                out.structure("<tool_result>")
                out.content(text.replace(_RESULT_CLOSER, _NEUTRAL_CLOSER))
                out.structure(_RESULT_CLOSER)
    out.extend(header(thinking))
    return out.segments()


def header(thinking: Thinking) -> list[Segment]:
    """`<｜Assistant｜>` and the thinking tag; the same in all dialects."""
    tag = wire.THINK if thinking is Thinking.THINKING else wire.END_THINK
    return [Segment(wire.ASSISTANT + tag, True)]


def eos() -> Segment:
    """The end of an assistant turn, for backends that stop before they return it."""
    return Segment(wire.EOS, True)
