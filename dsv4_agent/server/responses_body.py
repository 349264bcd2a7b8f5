"""The body of OpenAI's responses request, checked, and what it asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dsv4_agent.server.api_errors import bad_request
from dsv4_agent.server.carried_thought import INCLUDE, thought_in
from dsv4_agent.server.chat_body import FunctionBody
from dsv4_agent.server.chat_request import ChatRequest, ChoiceKind, ToolChoice

__all__ = ["ResponsesBody"]

_STRICT = ConfigDict(extra="ignore", strict=True, frozen=True)
_TEXTS = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})

_LOGPROBS = "message.output_text.logprobs"


class _Reasoning(BaseModel):
    model_config = _STRICT
    effort: str | None = None
    summary: str | None = None


class _Format(BaseModel):
    model_config = _STRICT
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class _Text(BaseModel):
    model_config = _STRICT
    format: _Format | None = None


class _NamedChoice(BaseModel):
    model_config = _STRICT
    type: Literal["function"]
    name: str


class ResponsesBody(BaseModel):
    """A responses request; fields that are not listed are ignored."""

    model_config = _STRICT
    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["auto", "none", "required"] | _NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    reasoning: _Reasoning | None = None
    text: _Text | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, ge=0, le=1)
    previous_response_id: str | None = None
    conversation: object = None
    background: bool | None = None
    user: str | None = Field(None, max_length=512)
    prompt_cache_key: str | None = Field(None, max_length=512)
    include: list[str] | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def shown_format(self) -> dict[str, Any]:
        """The format of the answer, as the response repeats it."""
        given = None if self.text is None else self.text.format
        return {"type": "text"} if given is None else given.model_dump(by_alias=True, exclude_none=True)

    @property
    def shown_choice(self) -> str | dict[str, Any]:
        """The choice of tools, as the response repeats it."""
        given = self.tool_choice
        return given.model_dump() if isinstance(given, _NamedChoice) else given or "auto"

    @property
    def carries_thoughts(self) -> bool:
        """Whether reasoning is to come in the form in which the client sends it back."""
        return INCLUDE in (self.include or ())

    def request(self, client: str) -> ChatRequest:
        """What is asked for. Raises `ApiError` for what isn't offered."""
        if self.previous_response_id is not None or self.conversation is not None:
            raise bad_request(
                "Responses are not stored here: send the whole input each time.", "previous_response_id"
            )
        if self.background:
            raise bad_request("background is not supported.", "background")
        if self.top_logprobs or _LOGPROBS in (self.include or ()):
            raise bad_request("Responses carry no logprobs here; chat completions do.", "top_logprobs")
        messages: list[Mapping[str, Any]] = []
        if self.instructions:
            messages.append({"role": "system", "content": self.instructions})
        messages += _messages(self.input)
        return ChatRequest(
            messages=tuple(messages),
            tools=tuple(_functions(self.tools or ())),
            choice=self._choice(),
            effort=None if self.reasoning is None else self.reasoning.effort,
            response_format=self._format(),
            max_tokens=self.max_output_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            client=client,
        )

    def _choice(self) -> ToolChoice:
        parallel = self.parallel_tool_calls is not False
        match self.tool_choice:
            case _NamedChoice(name=name):
                return ToolChoice(ChoiceKind.REQUIRED, name, parallel)
            case str() as kind:
                return ToolChoice(ChoiceKind(kind), None, parallel)
        return ToolChoice(parallel=parallel)

    def _format(self) -> dict[str, Any] | None:
        given = None if self.text is None else self.text.format
        if given is None or given.type == "text":
            return None
        if given.type == "json_object":
            return {"type": "json_object"}
        if given.schema_ is None:
            raise bad_request("json_schema needs a schema.", "text.format.schema")
        return {"type": "json_schema", "json_schema": {"schema": given.schema_}}


def _functions(tools: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The declared functions; OpenAI's own tools, which run there, are passed over."""
    for index, tool in enumerate(tools):
        if tool.get("type") == "function":
            given = {name: tool.get(name) for name in ("name", "description", "parameters", "strict")}
            yield FunctionBody.read(given, "tools", index).plain()


def _messages(given: str | Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Input items as chat messages; reasoning, words and calls of one turn become one message."""
    if isinstance(given, str):
        yield {"role": "user", "content": given}
        return
    turn: dict[str, Any] = {}
    for item in given:
        kind = item.get("type", "message")
        match kind:
            case "message" if item.get("role") == "assistant":
                if turn.get("tool_calls"):
                    yield {"role": "assistant", "content": "", **turn}
                    turn = {}
                turn["content"] = turn.get("content", "") + _text(item.get("content"))
            case "reasoning":
                if turn.get("tool_calls") or turn.get("content"):
                    yield {"role": "assistant", "content": "", **turn}
                    turn = {}
                thought = _text(item.get("content")) or thought_in(item.get("encrypted_content"))
                thought = thought or _text(item.get("summary"))
                turn["reasoning_content"] = turn.get("reasoning_content", "") + thought
            case "function_call":
                turn.setdefault("tool_calls", []).append(_call(item))
            case _:
                if turn:
                    yield {"role": "assistant", "content": "", **turn}
                    turn = {}
                yield _other(kind, item)
    if turn:
        yield {"role": "assistant", "content": "", **turn}


def _other(kind: object, item: Mapping[str, Any]) -> dict[str, Any]:
    match kind:
        case "message":
            role = item.get("role")
            if role not in ("user", "system", "developer"):
                raise bad_request("A message's role must be user, assistant, system or developer.", "input")
            shown = "system" if role == "developer" else role
            return {"role": shown, "content": _text(item.get("content"))}
        case "function_call_output":
            id = item.get("call_id")
            return {"role": "tool", "tool_call_id": id, "content": _text(item.get("output"))}
    raise bad_request(f"An input item of the type {str(kind)[:40]!r} can't be read.", "input")


def _call(item: Mapping[str, Any]) -> dict[str, Any]:
    match item:
        case {"call_id": str(id), "name": str(name), "arguments": str(arguments)}:
            return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
    raise bad_request("A function_call needs call_id, name and arguments.", "input")


def _text(content: object) -> str:
    match content:
        case None:
            return ""
        case str():
            return content
        case list():
            texts: list[str] = []
            for part in content:
                match part:
                    case {"type": str(kind), "text": str(text)} if kind in _TEXTS:
                        texts.append(text)
                    case {"type": "refusal", "refusal": str(text)}:
                        texts.append(text)
                    case _:
                        raise bad_request("Only text can be read, no images or files.", "input")
            return "\n\n".join(texts)
    raise bad_request("The content must be a text or a list of parts.", "input")
