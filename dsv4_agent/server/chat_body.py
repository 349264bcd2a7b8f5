"""The body of a chat completions request, checked, and what it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from dsv4_agent.dsml.dialect import GrammarMode, Thinking
from dsv4_agent.server.api_errors import bad_request, of_validation
from dsv4_agent.server.chat_request import ChatRequest, ChoiceKind, ToolChoice
from dsv4_agent.server.completion_body import Extension, StreamOptions

__all__ = ["ChatBody", "FunctionBody"]

_STRICT = ConfigDict(extra="ignore", strict=True, frozen=True)
_NAME = r"^[A-Za-z0-9_.:/-]{1,128}$"
"""Names are written into tags, so that nothing may stand in them that could end one."""


class FunctionBody(BaseModel):
    """A declared function."""

    model_config = _STRICT
    name: str = Field(pattern=_NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @field_validator("parameters")
    @classmethod
    def _usable(cls, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
        """The grammar of calls is made of these, so that they must be what a JSON schema has there."""
        given = parameters or {}
        if not isinstance(given.get("properties", {}), dict):
            raise ValueError("properties must be an object")
        required = given.get("required") or []
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise ValueError("required must be a list of names")
        if any(not name or set(name) & set('"<>\0\r\n') for name in given.get("properties", {})):
            raise ValueError("a parameter's name has a character that can't stand in a call")
        return parameters

    def plain(self) -> dict[str, Any]:
        """Name, description, parameters, and whether its arguments must keep to them."""
        return {
            "name": self.name,
            "description": self.description or "",
            "parameters": self.parameters or {},
            "strict": self.strict is True,
        }

    @classmethod
    def read(cls, given: Mapping[str, Any], *place: str | int) -> Self:
        """A function declared in another shape, its fields renamed; `place` is where. Raises `ApiError`."""
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise of_validation(error, *place) from None


class _Tool(BaseModel):
    model_config = _STRICT
    type: Literal["function"]
    function: FunctionBody


class _Named(BaseModel):
    model_config = _STRICT
    name: str


class _NamedChoice(BaseModel):
    model_config = _STRICT
    type: Literal["function"]
    function: _Named


class _ThinkingBody(BaseModel):
    model_config = _STRICT
    type: Literal["enabled", "disabled", "adaptive"]


class _TemplateArguments(BaseModel):
    model_config = _STRICT
    thinking: bool | None = None
    enable_thinking: bool | None = None


class _ResponseFormat(BaseModel):
    model_config = _STRICT
    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None


class ChatBody(BaseModel):
    """A chat completions request; fields that are not listed are ignored."""

    model_config = _STRICT
    messages: list[dict[str, Any]]
    model: str | None = None
    tools: list[_Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | _NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, ge=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    seed: int | None = None
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    n: int | None = None
    logit_bias: dict[str, float] | None = None
    reasoning_effort: str | None = None
    thinking: _ThinkingBody | None = None
    chat_template_kwargs: _TemplateArguments | None = None
    response_format: _ResponseFormat | None = None
    return_token_ids: bool | None = None
    user: str | None = Field(None, max_length=512)
    dsv4: Extension | None = None

    def request(self, client: str) -> ChatRequest:
        """What is asked for. Raises `ApiError` for what isn't offered."""
        if self.n not in (None, 1):
            raise bad_request("Only n=1 is supported.", "n")
        if self.logit_bias:
            raise bad_request("logit_bias is not supported.", "logit_bias")
        return ChatRequest(
            messages=tuple(self.messages),
            tools=tuple(tool.function.plain() for tool in self.tools or ()),
            choice=self._choice(),
            thinking=self._thinking(),
            effort=self.reasoning_effort,
            response_format=self._format(),
            max_tokens=self.max_completion_tokens or self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            min_p=self.min_p,
            top_k=self.top_k,
            seed=self.seed,
            stop=tuple([self.stop] if isinstance(self.stop, str) else self.stop or ()),
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            thinking_budget=None if self.dsv4 is None else self.dsv4.thinking_budget,
            grammar=GrammarMode.ON if self.dsv4 is None else self.dsv4.grammar,
            client=client,
        )

    def _choice(self) -> ToolChoice:
        parallel = self.parallel_tool_calls is not False
        match self.tool_choice:
            case _NamedChoice() as named:
                return ToolChoice(ChoiceKind.REQUIRED, named.function.name, parallel)
            case str() as kind:
                return ToolChoice(ChoiceKind(kind), None, parallel)
        return ToolChoice(parallel=parallel)

    def _thinking(self) -> Thinking | None:
        if self.thinking is not None:
            return Thinking.CHAT if self.thinking.type == "disabled" else Thinking.THINKING
        kwargs = self.chat_template_kwargs
        if kwargs is None:
            return None
        asked = kwargs.enable_thinking if kwargs.thinking is None else kwargs.thinking
        if asked is None:
            return None
        return Thinking.THINKING if asked else Thinking.CHAT

    def _format(self) -> dict[str, Any] | None:
        if self.response_format is None or self.response_format.type == "text":
            return None
        if self.response_format.type == "json_object":
            return {"type": "json_object"}
        schema = (self.response_format.json_schema or {}).get("schema")
        if not isinstance(schema, dict):
            raise bad_request("json_schema needs a schema.", "response_format.json_schema.schema")
        return {"type": "json_schema", "json_schema": {"schema": schema}}
