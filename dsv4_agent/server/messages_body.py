"""The body of Anthropic's messages request, checked, and what it asks for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dsv4_agent.dsml.dialect import Thinking
from dsv4_agent.server.api_errors import bad_request
from dsv4_agent.server.chat_body import FunctionBody
from dsv4_agent.server.chat_request import ChatRequest, ChoiceKind, ToolChoice

__all__ = ["MessagesBody"]

_STRICT = ConfigDict(extra="ignore", strict=True, frozen=True)


class _Tool(BaseModel):
    model_config = _STRICT
    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    type: str | None = None

    def plain(self, index: int) -> dict[str, Any]:
        if self.type not in (None, "custom"):
            raise bad_request(f"Tools of the type {self.type!r} run at Anthropic; leave them out.", "tools")
        given = {"name": self.name, "description": self.description, "parameters": self.input_schema}
        return FunctionBody.read(given, "tools", index).plain()


class _Choice(BaseModel):
    model_config = _STRICT
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _Thinking(BaseModel):
    model_config = _STRICT
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(None, ge=0)


class _Metadata(BaseModel):
    model_config = _STRICT
    user_id: str | None = Field(None, max_length=512)


class _Format(BaseModel):
    model_config = _STRICT
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class _OutputConfig(BaseModel):
    model_config = _STRICT
    effort: str | None = None
    format: _Format | None = None


class MessagesBody(BaseModel):
    """A messages request; fields that are not listed are ignored."""

    model_config = _STRICT
    messages: list[dict[str, Any]]
    max_tokens: int | None = Field(None, ge=1)
    model: str | None = None
    system: str | list[dict[str, Any]] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _Choice | None = None
    thinking: _Thinking | None = None
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    metadata: _Metadata | None = None
    output_config: _OutputConfig | None = None
    output_format: _Format | None = None

    @property
    def user(self) -> str | None:
        """Who asks, where the client says so."""
        return self.metadata.user_id if self.metadata is not None else None

    def request(self, client: str) -> ChatRequest:
        """What is asked for. Raises `ApiError` for what isn't offered."""
        messages: list[Mapping[str, Any]] = []
        if (system := _text(self.system, "system")) is not None:
            messages.append({"role": "system", "content": system})
        for message in self.messages:
            messages += _messages(message)
        thinking = self.thinking
        return ChatRequest(
            messages=tuple(messages),
            tools=tuple(tool.plain(index) for index, tool in enumerate(self.tools or ())),
            choice=self._choice(),
            thinking=None if thinking is None else _thinking(thinking.type),
            effort=None if self.output_config is None else self.output_config.effort,
            response_format=self._format(),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=tuple(self.stop_sequences or ()),
            thinking_budget=None if thinking is None else thinking.budget_tokens,
            client=client,
        )

    def _format(self) -> dict[str, Any] | None:
        """The schema of the answer; `output_format` is its older place."""
        given = (self.output_config and self.output_config.format) or self.output_format
        return None if given is None else {"type": "json_schema", "json_schema": {"schema": given.schema_}}

    def _choice(self) -> ToolChoice:
        given = self.tool_choice
        if given is None:
            return ToolChoice()
        parallel = given.disable_parallel_tool_use is not True
        match given.type:
            case "any":
                return ToolChoice(ChoiceKind.REQUIRED, None, parallel)
            case "tool":
                if given.name is None:
                    raise bad_request("tool_choice needs the tool's name.", "tool_choice.name")
                return ToolChoice(ChoiceKind.REQUIRED, given.name, parallel)
            case "none":
                return ToolChoice(ChoiceKind.NONE)
        return ToolChoice(parallel=parallel)


def _thinking(kind: str) -> Thinking:
    return Thinking.CHAT if kind == "disabled" else Thinking.THINKING


def _messages(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One of Anthropic's messages as OpenAI's: results of tools become messages of their own, first."""
    role, content = message.get("role"), message.get("content")
    if role == "system":
        yield {"role": "system", "content": _text(content, "messages.content") or ""}
        return
    if role not in ("user", "assistant"):
        raise bad_request("A message's role must be user or assistant.", "messages.role")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(blocks, list) or not all(isinstance(block, Mapping) for block in blocks):
        raise bad_request("A message's content must be a text or a list of blocks.", "messages.content")
    if role == "assistant":
        yield _assistant(blocks)
        return
    for block in blocks:
        if block.get("type") == "tool_result":
            text = _text(block.get("content"), "messages.content") or ""
            text = f"Error: {text}" if block.get("is_error") is True else text
            yield {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": text}
    texts = [block for block in blocks if block.get("type") != "tool_result"]
    if texts:
        yield {"role": "user", "content": _text(texts, "messages.content")}


def _assistant(blocks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant"}
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for block in blocks:
        match block:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "thinking", "thinking": str(text)}:
                thoughts.append(text)
            case {"type": "redacted_thinking"}:
                pass
            case {"type": "tool_use", "id": str(id), "name": str(name), "input": dict(given)}:
                function = {"name": name, "arguments": json.dumps(given, ensure_ascii=False)}
                calls.append({"id": id, "type": "function", "function": function})
            case _:
                kind = str(block.get("type"))[:40]
                raise bad_request(f"A block of the type {kind!r} can't be read.", "messages.content")
    message["content"] = "".join(texts)
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _text(content: object, field: str) -> str | None:
    """A text or the texts of blocks; other blocks are refused, for the model reads text alone."""
    match content:
        case None:
            return None
        case str():
            return content
        case list():
            texts: list[str] = []
            for block in content:
                match block:
                    case {"type": "text", "text": str(text)}:
                        texts.append(text)
                    case _:
                        raise bad_request("Only text can be read, no images or documents.", field)
            return "\n\n".join(texts)
    raise bad_request("The content must be a text or a list of blocks.", field)
