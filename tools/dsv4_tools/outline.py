"""What files define: classes, functions, methods, with their lines."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from dsv4_tools.base import Effect, Tool, ToolContext, ToolError, ToolResult
from dsv4_tools.output import plain
from dsv4_tools.syntax.languages import known_languages, syntax_of
from dsv4_tools.syntax.trees import FILE_BYTES, Definition, definitions
from dsv4_tools.text import cut_line, shown_name
from dsv4_tools.threads import in_thread
from dsv4_tools.walk import files_under
from dsv4_tools.workspace import Workspace

_LINES = 400


class OutlineArgs(BaseModel):
    """Arguments of `outline`."""

    path: str = Field(description="File or folder, relative to the workspace.")


class Outline(Tool[OutlineArgs]):
    """`outline`: definitions as `first-last kind name`, indented by what they lie in."""

    name: ClassVar[str] = "outline"
    Args: ClassVar[type[BaseModel]] = OutlineArgs
    effect: ClassVar[Effect] = Effect.READ

    async def run(self, args: OutlineArgs, context: ToolContext) -> ToolResult:
        """Outline a file, or every file of a folder whose language is known."""
        return await in_thread(_outline, args, context)


def _outline(args: OutlineArgs, context: ToolContext) -> ToolResult:
    workspace = context.workspace
    located = workspace.locate(args.path)
    if located.real.is_file():
        if syntax_of(located.shown) is None:
            known = ", ".join(known_languages())
            raise ToolError(f"{located.shown} is of no language that can be outlined ({known}); use read.")
        lines = _of_file(workspace, located.shown) or ["(no definitions)"]
        return _result(lines)
    if not located.real.is_dir():
        raise ToolError(f"{located.shown} does not exist.")
    lines = []
    paths, left_out = context.visible(p for p in files_under(workspace, located.real) if syntax_of(p))
    for path in paths:
        if found := _of_file(workspace, path):
            lines += [f"{shown_name(path)}:", *(f"  {line}" for line in found)]
        if len(lines) > _LINES:
            break
    return _result(lines or ["No definitions."], left_out)


def _of_file(workspace: Workspace, path: str) -> list[str]:
    syntax = syntax_of(path)
    assert syntax is not None, "callers look first"
    data = workspace.read(workspace.locate(path)).data
    if len(data) > FILE_BYTES:
        return [f"(over {FILE_BYTES // 1_000_000} MB: not outlined)"]
    return [_line(found) for found in definitions(syntax, data)]


def _line(found: Definition) -> str:
    span = str(found.line) if found.line == found.last_line else f"{found.line}-{found.last_line}"
    return cut_line(f"{'  ' * found.depth}{span} {found.kind} {plain(found.name)}")


def _result(lines: list[str], left_out: str | None = None) -> ToolResult:
    notes = [left_out] if left_out else []
    if len(lines) > _LINES:
        notes.insert(0, f"[{_LINES} lines shown, there are more; give a narrower path]")
    return ToolResult("\n".join([*lines[:_LINES], *notes]), truncated=len(lines) > _LINES)
