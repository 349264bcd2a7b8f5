"""The body of a completions request, checked."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from dsv4_agent.dsml.dialect import Dialect, GrammarMode

__all__ = ["CompletionBody", "Extension", "StreamOptions"]

_STRICT = ConfigDict(extra="ignore", strict=True, frozen=True)
Tool = dict[str, Any]


class StreamOptions(BaseModel):
    """`stream_options`."""

    model_config = _STRICT
    include_usage: bool | None = None


class Extension(BaseModel):
    """What clients may ask for beyond OpenAI's fields: the grammar of tool calls, a thinking budget.

    `answer_schema` is the JSON schema of a turn without calls; one that can't be followed is a notice of the
    answer and no error. The last `continues` tokens of the prompt belong to the turn already.
    """

    model_config = _STRICT
    tools: list[Tool] = Field(default_factory=list)
    grammar: GrammarMode = Field(GrammarMode.ON, strict=False)
    thinking_budget: int | None = Field(None, ge=0)
    dialect: Dialect | None = Field(None, strict=False)
    answer_schema: dict[str, Any] | None = None
    continues: int = Field(0, ge=0)

    @field_validator("tools")
    @classmethod
    def _named(cls, tools: list[Tool]) -> list[Tool]:
        for tool in tools:
            function = tool.get("function", tool)
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                raise ValueError("each tool needs a name")
        return tools


class CompletionBody(BaseModel):
    """A completions request; fields that are not listed are ignored."""

    model_config = _STRICT
    prompt: str | list[str] | list[int] | list[list[int]]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, ge=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    seed: int | None = None
    stop: str | list[str] | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    n: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    logit_bias: dict[str, float] | None = None
    return_token_ids: bool | None = None
    skip_special_tokens: bool | None = None
    user: str | None = Field(None, max_length=512)
    dsv4: Extension | None = None
