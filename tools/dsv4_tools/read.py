"""Read a text file, or a range of its lines, with line numbers."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from dsv4_tools.base import Effect, Tool, ToolContext, ToolError, ToolResult
from dsv4_tools.text import cut_line, is_binary, lines_of
from dsv4_tools.threads import in_thread

SIZE_LIMIT = 2_000_000
RANGE_SIZE_LIMIT = 64_000_000
TEXT_LIMIT = 100_000


class ReadArgs(BaseModel):
    """Arguments of `read`."""

    path: str = Field(description="File to read, relative to the workspace.")
    offset: int = Field(default=1, ge=1, description="First line to show, counted from 1.")
    limit: int = Field(default=2000, ge=1, description="How many lines to show at most.")


class Read(Tool[ReadArgs]):
    """`read`: numbered lines of one file."""

    name: ClassVar[str] = "read"
    Args: ClassVar[type[BaseModel]] = ReadArgs
    effect: ClassVar[Effect] = Effect.READ

    async def run(self, args: ReadArgs, context: ToolContext) -> ToolResult:
        """Show the lines; a long file ends with a line that says how to go on."""
        return await in_thread(_read, args, context)


def _read(args: ReadArgs, context: ToolContext) -> ToolResult:
    workspace = context.workspace
    located = workspace.locate(args.path, also=(context.spill_dir,))
    size = workspace.size(located)
    asked_for_range = bool({"offset", "limit"} & args.model_fields_set)
    if size > SIZE_LIMIT and not asked_for_range:
        raise ToolError(f"{located.shown} is large ({size:,} bytes); give offset and limit, or use grep.")
    data = workspace.read(located, max_bytes=RANGE_SIZE_LIMIT).data
    if is_binary(data):
        raise ToolError(f"{located.shown} is a binary file ({size:,} bytes).")
    note = None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("utf-8-sig", "replace")
        note = "[not valid UTF-8; the bytes that could not be decoded are shown as \ufffd]"
    lines = lines_of(text)
    if not lines:
        return ToolResult("(empty file)")
    if args.offset > len(lines):
        raise ToolError(f"offset {args.offset} is past the end of {located.shown} ({len(lines)} lines).")
    return _page(lines, args, note)


def _page(lines: list[str], args: ReadArgs, note: str | None) -> ToolResult:
    shown: list[str] = []
    length = 0
    for number, line in enumerate(lines[args.offset - 1 : args.offset - 1 + args.limit], args.offset):
        row = f"{number}\t{cut_line(line)}"
        length += len(row) + 1
        if shown and length > TEXT_LIMIT:
            break
        shown.append(row)
    last = args.offset + len(shown) - 1
    if note:
        shown.append(note)
    if last < len(lines):
        shown.append(f"[lines {args.offset}-{last} of {len(lines)}; continue with offset={last + 1}]")
    return ToolResult("\n".join(shown), truncated=last < len(lines))
