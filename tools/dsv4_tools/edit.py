"""Replace a piece of text in a file, leaving every other byte as it is."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from dsv4_tools import matching
from dsv4_tools.base import ChangeKind, Effect, FileChange, Tool, ToolContext, ToolError, ToolResult
from dsv4_tools.matching import Match
from dsv4_tools.nearest import nearest_lines
from dsv4_tools.text import changed_lines, decode, encode_argument, is_binary, plural, visible
from dsv4_tools.threads import in_thread

SIZE_LIMIT = 16_000_000
_RELAXED = {
    Match.WHITESPACE: "Matched after ignoring trailing whitespace and line endings.",
    Match.UNICODE: "Matched after reading typographic quotes, dashes and spaces as plain ones.",
    Match.INDENT: "Matched with different indentation; new_string was re-indented to fit.",
}


class EditArgs(BaseModel):
    """Arguments of `edit`."""

    path: str = Field(description="File to change, relative to the workspace.")
    old_string: str = Field(description="Text to replace, exactly as in the file.")
    new_string: str = Field(description="Text to put in its place.")
    replace_all: bool = Field(default=False, description="Replace every occurrence instead of a unique one.")


class Edit(Tool[EditArgs]):
    """`edit`: literal replacement of a unique text, or of all its occurrences."""

    name: ClassVar[str] = "edit"
    Args: ClassVar[type[BaseModel]] = EditArgs
    effect: ClassVar[Effect] = Effect.WRITE

    async def run(self, args: EditArgs, context: ToolContext) -> ToolResult:
        """Apply the replacement; `match` in the result names what had to be relaxed."""
        return await in_thread(_edit, args, context)


def _edit(args: EditArgs, context: ToolContext) -> ToolResult:
    context.require_writable()
    if not args.old_string:
        raise ToolError("old_string is empty; use write to create or replace a file.")
    if args.old_string == args.new_string:
        raise ToolError("old_string and new_string are the same.")
    encode_argument(args.new_string, "new_string")
    workspace = context.workspace
    located = workspace.locate(args.path)
    workspace.check_writable(located)
    content = workspace.read(located, max_bytes=SIZE_LIMIT)
    if is_binary(content.data):
        raise ToolError(f"{located.shown} is a binary file.")
    decoded = decode(content.data)
    text = decoded.text
    try:
        found = matching.find(text, args.old_string, args.new_string, replace_all=args.replace_all)
    except matching.Ambiguous as error:
        raise ToolError(
            f"old_string occurs {error.count} times in {located.shown}; add context or set replace_all."
        ) from error
    except matching.NotFound as error:
        raise ToolError(_not_found(located.shown, text, args.old_string)) from error
    changed = matching.apply(text, found.splices)
    if changed == text:
        raise ToolError(f"the edit leaves {located.shown} as it is.")
    workspace.write(located, decoded.encode(changed), expected=content)
    added, removed = changed_lines(text, changed)
    report = f"Edited {located.shown}: {plural(len(found.splices), 'replacement')}."
    if found.match is not Match.EXACT:
        report += f"\n{_RELAXED[found.match]}"
    return ToolResult(
        report,
        changes=(FileChange(located.shown, ChangeKind.UPDATE, added, removed),),
        match=found.match.value,
    )


def _not_found(path: str, text: str, old: str) -> str:
    message = f"old_string not found in {path}."
    if lines := nearest_lines(text, old):
        return visible(f"{message}\nNearest lines:\n{lines}")
    return message
