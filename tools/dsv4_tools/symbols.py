"""Where a name is defined and used, by syntax: not in strings or comments, not as part of another name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import BaseModel, Field

from dsv4_tools.base import Effect, Tool, ToolContext, ToolError, ToolResult
from dsv4_tools.output import plain
from dsv4_tools.syntax.languages import syntax_of
from dsv4_tools.syntax.trees import FILE_BYTES, uses
from dsv4_tools.text import cut_line, plural, shown_name
from dsv4_tools.threads import in_thread
from dsv4_tools.walk import files_under
from dsv4_tools.workspace import Workspace

_LINES = 300


class SymbolsArgs(BaseModel):
    """Arguments of `symbols`."""

    name: str = Field(description="The identifier, without dots or brackets.")
    path: str = Field(default=".", description="File or folder to look in, relative to the workspace.")


class Symbols(Tool[SymbolsArgs]):
    """`symbols`: definitions and uses of a name as `path:line: text`, definitions marked."""

    name: ClassVar[str] = "symbols"
    Args: ClassVar[type[BaseModel]] = SymbolsArgs
    effect: ClassVar[Effect] = Effect.READ

    async def run(self, args: SymbolsArgs, context: ToolContext) -> ToolResult:
        """Look through every file whose language is known."""
        return await in_thread(_symbols, args, context)


@dataclass(slots=True)
class _Found:
    lines: list[str] = field(default_factory=list)
    uses: int = 0
    elsewhere: dict[str, int] = field(default_factory=dict)


def _symbols(args: SymbolsArgs, context: ToolContext) -> ToolResult:
    if not args.name or not all(char.isalnum() or char in "_$" for char in args.name):
        raise ToolError("name must be one identifier; use grep for other text.")
    workspace = context.workspace
    located = workspace.locate(args.path)
    left_out = None
    if located.real.is_file():
        paths = [located.shown]
    elif located.real.is_dir():
        every = files_under(workspace, located.real)
        paths, left_out = context.visible(path for path in every if syntax_of(path))
    else:
        raise ToolError(f"{located.shown} does not exist.")
    found = _Found()
    for path in paths:
        _look_into(workspace, path, args.name, found)
    return _result(args.name, found, left_out)


def _look_into(workspace: Workspace, path: str, name: str, found: _Found) -> None:
    syntax = syntax_of(path)
    located = workspace.locate(path)
    if syntax is None or workspace.size(located) > FILE_BYTES:
        return
    data = workspace.read(located).data
    if name.encode() not in data:
        return
    named, other = uses(syntax, data, name)
    lines = data.decode("utf-8", "replace").split("\n")
    found.uses += len(named)
    for use in named:
        mark = "definition: " if use.defines else ""
        text = plain(lines[use.line - 1].strip())
        found.lines.append(cut_line(f"{shown_name(path)}:{use.line}: {mark}{text}"))
    if other:
        found.elsewhere[path] = other


def _result(name: str, found: _Found, left_out: str | None) -> ToolResult:
    rest = sum(found.elsewhere.values())
    lines = list(dict.fromkeys(found.lines))
    shown = lines[:_LINES] or [f"{name} is not defined or used in any file whose language is known."]
    if len(lines) > _LINES:
        shown.append(f"[{_LINES} of {len(lines)} lines shown; give a narrower path]")
    if rest:
        files = ", ".join(shown_name(path) for path in list(found.elsewhere)[:5])
        more = ", ..." if len(found.elsewhere) > 5 else ""
        shown.append(
            f"Also inside strings, comments or longer names: {plural(rest, 'time')} ({files}{more})."
        )
    if left_out:
        shown.append(left_out)
    return ToolResult("\n".join(shown), truncated=len(lines) > _LINES)
