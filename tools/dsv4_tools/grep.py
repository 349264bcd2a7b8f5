"""Search file contents by regular expression or plain text."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from dsv4_tools.base import Effect, Tool, ToolContext, ToolError, ToolResult
from dsv4_tools.environment import find_program
from dsv4_tools.output import plain
from dsv4_tools.patterns import compile_glob
from dsv4_tools.search import EXPLICIT_BYTES, FILE_BYTES, Query, search
from dsv4_tools.text import shown_name
from dsv4_tools.threads import in_thread
from dsv4_tools.walk import files_under
from dsv4_tools.workspace import Located

_LINE_LIMIT = 500


class GrepArgs(BaseModel):
    """Arguments of `grep`."""

    pattern: str = Field(description="Regular expression, matched within single lines.")
    path: str = Field(default=".", description="File or folder to search, relative to the workspace.")
    glob: str | None = Field(default=None, description="Only files that fit this glob, such as `*.py`.")
    literal: bool = Field(default=False, description="Take pattern as plain text.")
    max_results: int = Field(
        default=200, ge=1, le=2000, description="How many matching lines to show at most."
    )


class Grep(Tool[GrepArgs]):
    """`grep`: matching lines as path:number:line."""

    name: ClassVar[str] = "grep"
    Args: ClassVar[type[BaseModel]] = GrepArgs
    effect: ClassVar[Effect] = Effect.READ

    async def run(self, args: GrepArgs, context: ToolContext) -> ToolResult:
        """Search; sorted by path, then line number. Ignored, binary and huge files are skipped."""
        return await in_thread(_grep, args, context)


def _grep(args: GrepArgs, context: ToolContext) -> ToolResult:
    if not args.pattern:
        raise ToolError("pattern is empty.")
    if "\n" in args.pattern or "\0" in args.pattern:
        raise ToolError("pattern contains a newline or NUL; matches lie within one line.")
    workspace = context.workspace
    located = workspace.locate(args.path)
    explicit = located.real.is_file()
    files = [workspace.relative(located.real)] if explicit else _files(args, located, context)
    files, left_out = (files, None) if explicit else context.visible(files)
    if explicit and any(part == ".git" for part in files[0].split("/")):
        raise ToolError(f"{located.shown} belongs to Git; use the git tools.")
    query = Query(
        args.pattern, args.literal, files, args.max_results, EXPLICIT_BYTES if explicit else FILE_BYTES
    )
    hits = search(query, workspace, find_program("rg", context.environment, workspace.root))
    if not hits.total:
        return ToolResult("\n".join(filter(None, ("No matches.", left_out))))
    lines = [f"{shown_name(path)}:{number}:{_cut(plain(line))}" for path, number, line in hits.lines]
    if hits.total > len(lines):
        lines.append(f"[{len(lines)} of {hits.total} matches shown]")
    if left_out:
        lines.append(left_out)
    return ToolResult("\n".join(lines), truncated=hits.total > len(hits.lines))


def _cut(line: str) -> str:
    return line if len(line) <= _LINE_LIMIT else f"{line[:_LINE_LIMIT]} [... line cut]"


def _files(args: GrepArgs, located: Located, context: ToolContext) -> list[str]:
    """The files to search, sorted by path; a glob without a slash is about names, otherwise about paths."""
    workspace = context.workspace
    if not located.real.exists():
        raise ToolError(f"{located.shown} does not exist.")
    if not located.real.is_dir():
        raise ToolError(f"{located.shown} is not a regular file.")
    paths = sorted(files_under(workspace, located.real))
    if not args.glob:
        return paths
    pattern = args.glob.removeprefix("./")
    wanted = compile_glob(pattern)
    if "/" not in pattern:
        return [path for path in paths if wanted.matches(path, path.rfind("/") + 1)]
    prefix = workspace.relative(located.real)
    skip = 0 if prefix == "." else len(prefix) + 1
    return [path for path in paths if wanted.matches(path, skip) or wanted.matches(path)]
