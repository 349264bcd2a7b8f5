"""Create a file or replace all of it."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import BaseModel, Field

from dsv4_tools.base import ChangeKind, Effect, FileChange, Tool, ToolContext, ToolError, ToolResult
from dsv4_tools.diff import unified_diff
from dsv4_tools.syntax.check import broken_by
from dsv4_tools.text import changed_lines, encode_argument, line_count, plural, visible
from dsv4_tools.threads import in_thread
from dsv4_tools.workspace import Located

_OLD_LIMIT = 16_000_000


class WriteArgs(BaseModel):
    """Arguments of `write`."""

    path: str = Field(description="File to create or replace, relative to the workspace.")
    content: str = Field(description="The whole new content of the file.")


class Write(Tool[WriteArgs]):
    """`write`: the whole content of one file, replaced in one step."""

    name: ClassVar[str] = "write"
    Args: ClassVar[type[BaseModel]] = WriteArgs
    effect: ClassVar[Effect] = Effect.WRITE

    async def run(self, args: WriteArgs, context: ToolContext) -> ToolResult:
        """Write exactly `content`; missing folders are made."""
        return await in_thread(_write, args, context)

    async def preview(self, args: WriteArgs, context: ToolContext) -> tuple[FileChange, ...]:
        return ((await in_thread(_plan, args, context))[-1],)


def _write(args: WriteArgs, context: ToolContext) -> ToolResult:
    located, data, before, change = _plan(args, context)
    created = context.workspace.write(located, data)
    verb = "Created" if created else "Wrote"
    report = f"{verb} {located.shown} ({plural(line_count(args.content), 'line')})."
    if broken := broken_by(located.shown, before, data):
        report += f"\n{visible(broken)}"
    return ToolResult(
        report,
        changes=(replace(change, kind=ChangeKind.ADD if created else ChangeKind.UPDATE),),
    )


def _plan(args: WriteArgs, context: ToolContext) -> tuple[Located, bytes, bytes, FileChange]:
    context.require_writable()
    workspace = context.workspace
    located = workspace.locate(args.path)
    if args.path.endswith("/"):
        raise ToolError(f"{args.path} is a directory.")
    workspace.check_writable(located)
    data = encode_argument(args.content, "content")
    old = b""
    exists = located.real.exists()
    if exists and workspace.size(located) <= _OLD_LIMIT:
        old = workspace.read(located).data
    before = old.decode("utf-8", "replace")
    added, removed = changed_lines(before, args.content)
    kind = ChangeKind.UPDATE if exists else ChangeKind.ADD
    diff = unified_diff(before, args.content)
    return located, data, old, FileChange(located.shown, kind, added, removed, diff)
