"""Show uncommitted changes."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from dsv4_tools.base import Effect, Tool, ToolContext, ToolResult
from dsv4_tools.git_repository import DIFF_FLAGS, Repository
from dsv4_tools.output import bounded
from dsv4_tools.threads import in_thread


class GitDiffArgs(BaseModel):
    """Arguments of `git_diff`."""

    path: str | None = Field(default=None, description="Only this file or folder.")
    staged: bool = Field(default=False, description="Show what is staged instead of what is not.")


class GitDiff(Tool[GitDiffArgs]):
    """`git_diff`: unified diff of the work tree or the index."""

    name: ClassVar[str] = "git_diff"
    Args: ClassVar[type[BaseModel]] = GitDiffArgs
    effect: ClassVar[Effect] = Effect.READ

    async def run(self, args: GitDiffArgs, context: ToolContext) -> ToolResult:
        """The diff, cut in the middle when it is long."""
        return await in_thread(_diff, args, context)


def _diff(args: GitDiffArgs, context: ToolContext) -> ToolResult:
    repository = Repository(context.workspace)
    staged = ("--cached",) if args.staged else ()
    specs, left_out = repository.visible(context, ("diff", *staged), repository.pathspec(args.path))
    text = repository.run(
        "diff", *DIFF_FLAGS, *staged, "--", *specs.paths, environment=specs.environment
    ).text
    text += left_out or ""
    if not text:
        return ToolResult("No changes.")
    kept = bounded(text, context.spill_dir, "git_diff")
    return ToolResult(kept.text, truncated=kept.omitted > 0, output_path=kept.path)
