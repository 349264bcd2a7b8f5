"""Replace a piece of text in a file, leaving every other byte as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, Field

from dsv4_tools import matching
from dsv4_tools.base import ChangeKind, Effect, FileChange, Tool, ToolContext, ToolError, ToolResult
from dsv4_tools.diff import unified_diff
from dsv4_tools.matching import Match
from dsv4_tools.nearest import nearest_lines
from dsv4_tools.syntax.check import broken_by
from dsv4_tools.text import changed_lines, decode, encode_argument, is_binary, plural, visible
from dsv4_tools.threads import in_thread
from dsv4_tools.workspace import Content, Located

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

    async def preview(self, args: EditArgs, context: ToolContext) -> tuple[FileChange, ...]:
        return (await in_thread(_plan, args, context)).changes


@dataclass(frozen=True, slots=True)
class _Plan:
    """An edit worked out on the version of the file that was read."""

    located: Located
    content: Content
    data: bytes
    changes: tuple[FileChange, ...]
    replacements: int
    match: Match


def _edit(args: EditArgs, context: ToolContext) -> ToolResult:
    plan = _plan(args, context)
    context.workspace.write(plan.located, plan.data, expected=plan.content)
    report = f"Edited {plan.located.shown}: {plural(plan.replacements, 'replacement')}."
    if plan.match is not Match.EXACT:
        report += f"\n{_RELAXED[plan.match]}"
    if broken := broken_by(plan.located.shown, plan.content.data, plan.data):
        report += f"\n{visible(broken)}"
    return ToolResult(report, changes=plan.changes, match=plan.match.value)


def _plan(args: EditArgs, context: ToolContext) -> _Plan:
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
    added, removed = changed_lines(text, changed)
    change = FileChange(located.shown, ChangeKind.UPDATE, added, removed, unified_diff(text, changed))
    data = decoded.encode(changed)
    return _Plan(located, content, data, (change,), len(found.splices), found.match)


def _not_found(path: str, text: str, old: str) -> str:
    message = f"old_string not found in {path}."
    if lines := nearest_lines(text, old):
        return visible(f"{message}\nNearest lines:\n{lines}")
    return message
