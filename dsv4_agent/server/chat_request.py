"""A conversation to be continued, whatever endpoint it came by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dsv4_agent.dsml.dialect import Dialect, GrammarMode, Thinking
from dsv4_agent.server.api_errors import bad_request
from dsv4_agent.server.limits import Limits
from dsv4_agent.server.request_checks import check_stops

__all__ = ["ChatRequest", "ChoiceKind", "ToolChoice", "effort_of"]

Message = Mapping[str, Any]


class ChoiceKind(StrEnum):
    """Whether the model calls tools: as it likes, never, or in any case."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`name` narrows a required call to one tool; without `parallel` a turn has one call at most."""

    kind: ChoiceKind = ChoiceKind.AUTO
    name: str | None = None
    parallel: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """What the endpoints make of their bodies.

    `messages` have OpenAI's shape: role (system, user, assistant, tool), content as text, and for assistants
    `reasoning_content` and `tool_calls` whose arguments are JSON texts. `tools` are the plain functions
    (name, description, parameters). None means: the model's own default. `effort` is OpenAI's word.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    choice: ToolChoice = ToolChoice()
    thinking: Thinking | None = None
    effort: str | None = None
    response_format: Mapping[str, Any] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    min_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    thinking_budget: int | None = None
    grammar: GrammarMode = GrammarMode.ON
    client: str = ""

    def check(self, limits: Limits) -> None:
        """Raise `ApiError` for what contradicts itself."""
        if not self.messages:
            raise bad_request("There are no messages.", "messages")
        check_stops(self.stop, limits)
        if self.choice.kind is ChoiceKind.REQUIRED and not self.tools:
            raise bad_request("tool_choice demands a call, but no tools are declared.", "tool_choice")
        names = {tool["name"] for tool in self.tools}
        if self.choice.name is not None and self.choice.name not in names:
            raise bad_request("tool_choice names a tool that is not declared.", "tool_choice")
        if len(names) < len(self.tools):
            raise bad_request("Two tools have the same name.", "tools")

    @property
    def offered(self) -> tuple[Mapping[str, Any], ...]:
        """The tools that the model is shown."""
        return () if self.choice.kind is ChoiceKind.NONE else self.tools

    @property
    def callable(self) -> tuple[Mapping[str, Any], ...]:
        """The tools that it may call."""
        if self.choice.name is None:
            return self.offered
        return tuple(tool for tool in self.tools if tool["name"] == self.choice.name)

    def thinks(self, usual: Thinking) -> bool:
        """Whether the model thinks first. A required call leaves no room for it: then it doesn't."""
        if self.choice.kind is ChoiceKind.REQUIRED or self.effort == "none":
            return False
        return (self.thinking or usual) is Thinking.THINKING


_EFFORTS: Mapping[str, str] = {
    "minimal": "low",
    "low": "low",
    "medium": "high",
    "high": "high",
    "xhigh": "high",
    "ultra": "max",
    "max": "max",
}


def effort_of(word: str | None, dialect: Dialect) -> str | None:
    """A dialect's effort for OpenAI's word; None is the dialect's usual one. Raises `ApiError`."""
    if word is None or word == "none":
        return None
    effort = _EFFORTS.get(word)
    if effort is None:
        known = ", ".join(("none", *_EFFORTS))
        raise bad_request(f"reasoning_effort must be one of {known}.", "reasoning_effort")
    return "high" if dialect is Dialect.V4 and effort == "low" else effort
