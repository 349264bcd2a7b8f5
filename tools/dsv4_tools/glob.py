"""List files by name pattern."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from dsv4_tools.base import Effect, Tool, ToolContext, ToolError, ToolResult
from dsv4_tools.patterns import compile_glob
from dsv4_tools.text import shown_name
from dsv4_tools.threads import in_thread
from dsv4_tools.walk import files_under

FILE_LIMIT = 1_000


class GlobArgs(BaseModel):
    """Arguments of `glob`."""

    pattern: str = Field(description="Glob such as `*.md` (this folder) or `**/*.py` (any depth).")
    path: str = Field(default=".", description="Folder to search, relative to the workspace.")


class Glob(Tool[GlobArgs]):
    """`glob`: files whose path below `path` fits the pattern."""

    name: ClassVar[str] = "glob"
    Args: ClassVar[type[BaseModel]] = GlobArgs
    effect: ClassVar[Effect] = Effect.READ

    async def run(self, args: GlobArgs, context: ToolContext) -> ToolResult:
        """One path a line, sorted; ignored files and folders themselves are not listed."""
        return await in_thread(_glob, args, context)


def _glob(args: GlobArgs, context: ToolContext) -> ToolResult:
    workspace = context.workspace
    located = workspace.locate(args.path)
    if not located.real.exists():
        raise ToolError(f"{located.shown} does not exist.")
    if not located.real.is_dir():
        raise ToolError(f"{located.shown} is not a directory.")
    pattern = args.pattern.removeprefix("./")
    if not pattern:
        raise ToolError("pattern is empty.")
    if pattern.startswith(("/", "~")) or ".." in pattern.split("/"):
        raise ToolError(f"pattern {pattern} leaves the folder; give a pattern relative to path.")
    wanted = compile_glob(pattern)
    prefix = workspace.relative(located.real)
    skip = 0 if prefix == "." else len(prefix) + 1
    found = sorted(path for path in files_under(workspace, located.real) if wanted.matches(path, skip))
    found, left_out = context.visible(found)
    if not found:
        return ToolResult("\n".join(filter(None, ("No files match.", left_out))))
    lines = [shown_name(path) for path in found[:FILE_LIMIT]]
    if len(found) > FILE_LIMIT:
        lines.append(f"[{FILE_LIMIT} of {len(found)} files shown]")
    if left_out:
        lines.append(left_out)
    return ToolResult("\n".join(lines), truncated=len(found) > FILE_LIMIT)
