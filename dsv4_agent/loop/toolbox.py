"""The tools of a session: what the model is shown of them, and how a parsed call becomes a result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ValidationError

from dsv4_agent.dsml.schema import ToolSchema
from dsv4_agent.loop.preset import Preset
from dsv4_tools.base import Effect, FileChange, Status, Tool, ToolContext, ToolError, ToolResult
from dsv4_tools.schema import parameters_schema

_log = logging.getLogger(__name__)


class UnknownToolError(ValueError):
    """A preset or an option names a tool that does not exist."""


class Toolbox:
    """The declared tools, frozen at the start of a session.

    Raises `UnknownToolError` where the preset names a tool that is not in `tools`.
    """

    def __init__(self, preset: Preset, tools: Mapping[str, Tool[Any]], context: ToolContext) -> None:
        missing = [name for name in preset.tools if name not in tools]
        if missing:
            known = ", ".join(tools)
            raise UnknownToolError(f"unknown tool {', '.join(missing)}; there are {known}")
        self._tools = {name: tools[name] for name in preset.tools}
        self.context = context
        self.functions: tuple[Mapping[str, object], ...] = tuple(
            _function(preset, tool) for tool in self._tools.values()
        )
        self.schemas: Mapping[str, ToolSchema] = {
            str(function["name"]): ToolSchema.from_function(dict(function)) for function in self.functions
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The declared tools in the order the model sees them."""
        return tuple(self._tools)

    def effect(self, name: str) -> Effect:
        """The strongest thing the tool can do."""
        return self._tools[name].effect

    def validate(self, name: str, arguments: Mapping[str, object]) -> BaseModel:
        """Typed arguments of a call. Raises `ToolError` with text that lets the model mend them."""
        if name not in self._tools:
            raise ToolError(f"there is no tool {name}; the tools are {', '.join(self._tools)}.")
        try:
            return self._tools[name].Args.model_validate(dict(arguments))
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(str(part) for part in problem['loc']) or 'arguments'}: {problem['msg']}"
                for problem in error.errors(include_url=False, include_input=False)
            )
            raise ToolError(f"invalid arguments for {name}: {problems}.") from error

    async def preview(self, name: str, arguments: BaseModel) -> tuple[FileChange, ...]:
        """What a call would change in files, where that can be known. Raises `ToolError` as it would."""
        return await self._tools[name].preview(arguments, self.context)

    async def run(
        self, name: str, arguments: BaseModel, hidden: Callable[[str], bool] | None = None
    ) -> ToolResult:
        """Run a call; where it goes through many files it leaves out the `hidden` ones.

        Never raises but for cancellation: what goes wrong is a result that says so.
        """
        try:
            context = self.context if hidden is None else replace(self.context, hidden=hidden)
            return await self._tools[name].run(arguments, context)
        except ToolError as error:
            return ToolResult(text=f"Error: {error}", status=Status.FAILED)
        except Exception as error:
            _log.exception("the tool %s failed", name)
            return ToolResult(text=f"Error: the tool {name} failed: {error!r}", status=Status.FAILED)


def _function(preset: Preset, tool: Tool[Any]) -> Mapping[str, object]:
    from dsv4_prompts import tool_description

    only = preset.only.get(tool.name)
    return {
        "name": tool.name,
        "description": tool_description(tool.name, preset=preset.descriptions),
        "parameters": parameters_schema(tool.Args, only),
    }
