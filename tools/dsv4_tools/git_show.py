"""Show one commit."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from dsv4_tools.base import Effect, Tool, ToolContext, ToolError, ToolResult, nothing_hidden
from dsv4_tools.git_repository import DIFF_FLAGS, Repository
from dsv4_tools.output import bounded
from dsv4_tools.threads import in_thread

_FORMAT = "--format=commit %H%nAuthor: %an <%ae>%nDate:   %ad%n%n%B"


class GitShowArgs(BaseModel):
    """Arguments of `git_show`."""

    revision: str = Field(description="Commit to show, such as HEAD~1 or a hash.")


class GitShow(Tool[GitShowArgs]):
    """`git_show`: message and diff of a commit."""

    name: ClassVar[str] = "git_show"
    Args: ClassVar[type[BaseModel]] = GitShowArgs
    effect: ClassVar[Effect] = Effect.READ

    async def run(self, args: GitShowArgs, context: ToolContext) -> ToolResult:
        """The commit, cut in the middle when it is long."""
        return await in_thread(_show, args, context)


def _show(args: GitShowArgs, context: ToolContext) -> ToolResult:
    revision = args.revision.strip()
    if not revision or revision.startswith("-") or any(c < " " or c == "\x7f" for c in revision):
        raise ToolError(f"{revision!r} is not a revision.")
    repository = Repository(context.workspace)
    # A blob or tree has no paths that a subfolder or a rule could be held against.
    only_commits = repository.prefix or context.hidden is not nothing_hidden
    wanted = f"{revision}^{{commit}}" if only_commits else revision
    found = repository.run("rev-parse", "--verify", "--quiet", "--end-of-options", wanted, ok=(0, 1, 128))
    if found.code:
        raise ToolError(f"unknown revision {revision}.")
    flags = (*DIFF_FLAGS, "--no-show-signature", "--date=iso-strict", _FORMAT)
    commit = found.text.strip()
    specs, left_out = repository.visible(context, ("show", "--format=", commit), None)
    text = repository.run("show", *flags, commit, "--", *specs.paths, environment=specs.environment).text
    kept = bounded(text + (left_out or ""), context.spill_dir, "git_show")
    return ToolResult(kept.text, truncated=kept.omitted > 0, output_path=kept.path)
