"""Chat messages -> the exact prompt, as the official encoders write it.

Used for foreign histories, the debugging door and tests. The agent itself never re-renders its past turns;
it appends what `dsv4_agent.dsml.turn` writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dsv4_agent.dsml import dialect as wire
from dsv4_agent.dsml.conversation import (
    Message,
    drop_old_thinking,
    last_user_index,
    merge,
    sort_results,
)
from dsv4_agent.dsml.dialect import Dialect, Encoder, Thinking, effort_prefix
from dsv4_agent.dsml.errors import (
    InvalidMessageError,
    InvalidTaskError,
    InvalidThinkingModeError,
    UnknownRoleError,
)
from dsv4_agent.dsml.hosted import render_hosted
from dsv4_agent.dsml.pieces import functions_of, write_calls, write_response_format, write_tools
from dsv4_agent.dsml.segments import Segment, SegmentBuilder, text_of

IMAGE_PLACEHOLDER = "<｜deepseek_image｜>"


def render(
    messages: Sequence[Mapping[str, Any]],
    *,
    thinking: Thinking | str,
    effort: str | int | None = None,
    dialect: Dialect = Dialect.V4,
    encoder: Encoder = Encoder.CHECKPOINT,
    drop_thinking: bool = True,
    add_bos: bool = True,
    context: Sequence[Mapping[str, Any]] | None = None,
) -> list[Segment]:
    """Render a conversation in the OpenAI shape (tools attached to a system or developer message).

    `context` is a conversation that was rendered before: only `messages` are written, without BOS (the
    hosted API knows no such thing: there it is written as well). Tool call arguments are JSON strings.
    Raises a `RenderError` where the official encoder raises.
    """
    earlier: list[Mapping[str, Any]] = list(context or ())
    later: list[Mapping[str, Any]] = list(messages)
    if encoder is Encoder.API:
        return render_hosted(
            [*earlier, *later],
            thinking=thinking,
            effort=effort,
            dialect=dialect,
            drop_thinking=drop_thinking,
            add_bos=add_bos,
        )
    new = sort_results([*merge(earlier, dialect), *merge(later, dialect)])[len(merge(earlier, dialect)) :]
    old = sort_results(merge(earlier, dialect))
    full = [*old, *new]
    dropping = drop_thinking and not any(message.get("tools") for message in full)
    first = len(old)
    if dropping and thinking == Thinking.THINKING:
        full = drop_old_thinking(full, dialect)
        first = min(len(drop_old_thinking(old, dialect)), len(full))
    renderer = _Renderer(full, thinking, effort, dialect, dropping)
    if add_bos and not earlier:
        renderer.out.structure(wire.BOS)
    for index in range(first, len(full)):
        renderer.message(index)
    return renderer.out.segments()


def render_text(messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
    """The prompt as one string; same arguments as `render`."""
    return text_of(render(messages, **options))


class _Renderer:
    def __init__(
        self,
        messages: list[Message],
        thinking: Thinking | str,
        effort: str | int | None,
        dialect: Dialect,
        dropping: bool,
    ) -> None:
        self.out = SegmentBuilder()
        self._messages = messages
        self._mode = thinking
        self._effort = effort
        self._dialect = dialect
        self._dropping = dropping
        self._last_user = last_user_index(messages, dialect)

    @property
    def _thinks(self) -> bool:
        return self._mode == Thinking.THINKING

    def message(self, index: int) -> None:
        if self._mode not in (Thinking.THINKING, Thinking.CHAT):
            raise InvalidThinkingModeError(f"Invalid thinking_mode `{self._mode}` (use thinking or chat)")
        message = self._messages[index]
        self._prefix(index, message)
        match message.get("role"):
            case "system":
                if self._dialect is Dialect.V41 and index > 0:
                    self.out.structure(wire.SYSTEM)
                self.out.content(str(message.get("content") or ""))
                self._sections(message)
            case "user":
                self.out.structure(wire.USER)
                self._blocks(message["content_blocks"])
            case "developer":
                if not message.get("content"):
                    raise InvalidMessageError(f"Invalid message for role `developer`: {message}")
                self.out.structure(wire.USER)
                self.out.content(str(message["content"]))
                self._sections(message)
            case "latest_reminder":
                self.out.structure(wire.LATEST_REMINDER)
                self.out.content(str(message.get("content")))
            case "assistant":
                self._assistant(index, message)
            case role:
                raise UnknownRoleError(
                    f"Unknown role: {role} (known: system, user, assistant, tool, developer)"
                )
        self._header(index, message)

    def _prefix(self, index: int, message: Message) -> None:
        prefix = effort_prefix(self._effort, self._dialect)
        if index > 0:
            return
        prefix = prefix if self._thinks else ""
        if self._dialect is Dialect.V41 and (prefix or message.get("role") == "system"):
            self.out.structure(wire.SYSTEM)
        self.out.structure(prefix)

    def _sections(self, message: Message) -> None:
        if tools := message.get("tools"):
            self.out.structure("\n\n")
            write_tools(self.out, functions_of(tools), self._dialect)
        if response_format := message.get("response_format"):
            self.out.structure("\n\n")
            write_response_format(self.out, response_format, self._dialect)

    def _blocks(self, blocks: Sequence[Message]) -> None:
        for position, block in enumerate(blocks):
            if position:
                self.out.structure("\n\n")
            match block.get("type"):
                case "text":
                    text = block.get("text", "")
                    if not isinstance(text, str):
                        raise InvalidMessageError(
                            f"sequence item {position}: expected str instance, {type(text).__name__} found"
                            " (a user message needs text content)"
                        )
                    self.out.content(text)
                case "tool_result":
                    self.out.structure("<tool_result>")
                    self._result(block.get("content", ""))
                    self.out.structure("</tool_result>")
                case "image" if self._dialect is Dialect.V41:
                    self.out.structure(IMAGE_PLACEHOLDER)
                case kind:
                    self.out.content(f"[Unsupported {kind}]")

    def _result(self, content: object) -> None:
        if not isinstance(content, list):
            self.out.content(str(content))
            return
        for position, item in enumerate(content):
            if position:
                self.out.structure("\n\n")
            match item.get("type"):
                case "text":
                    self.out.content(str(item.get("text", "")))
                case "image" if self._dialect is Dialect.V41:
                    self.out.structure(IMAGE_PLACEHOLDER)
                case kind:
                    self.out.content(f"[Unsupported {kind}]")

    def _assistant(self, index: int, message: Message) -> None:
        reasoning = str(message.get("reasoning_content") or "")
        content = str(message.get("content") or "")
        calls = message.get("tool_calls") or ()
        after_task = index > 0 and self._messages[index - 1].get("task") is not None
        if self._thinks and not after_task and (not self._dropping or index > self._last_user):
            self.out.content(reasoning)
            self.out.structure(wire.END_THINK)
        self.out.content(content)
        if calls:
            write_calls(self.out, calls, self._dialect)
        if not message.get("wo_eos"):
            self.out.structure(wire.EOS)

    def _header(self, index: int, message: Message) -> None:
        following = self._messages[index + 1 : index + 2]
        if following and following[0].get("role") not in ("assistant", "latest_reminder"):
            return
        if (task := message.get("task")) is not None:
            self._task(task)
            return
        match message.get("role"):
            case "user" | "developer":
                pass
            case "system" if self._dialect is Dialect.V41 and index > 0:
                pass
            case _:
                return
        opens = self._thinks and (not self._dropping or index >= self._last_user)
        self.out.structure(wire.ASSISTANT + (wire.THINK if opens else wire.END_THINK))

    def _task(self, task: object) -> None:
        token = wire.TASK_TOKENS.get(task) if isinstance(task, str) else None
        if token is None:
            raise InvalidTaskError(f"Invalid task: '{task}'. Valid tasks are: {list(wire.TASK_TOKENS)}")
        if task == "action":
            self.out.structure(wire.ASSISTANT + (wire.THINK if self._thinks else wire.END_THINK))
        self.out.structure(token)
