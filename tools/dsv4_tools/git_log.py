"""List commits."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from dsv4_tools.base import Effect, Tool, ToolContext, ToolError, ToolResult
from dsv4_tools.git_repository import Repository
from dsv4_tools.output import plain
from dsv4_tools.threads import in_thread


class GitLogArgs(BaseModel):
    """Arguments of `git_log`."""

    limit: int = Field(default=10, ge=1, le=500, description="How many commits to show at most.")
    path: str | None = Field(default=None, description="Only commits that touch this file or folder.")


class GitLog(Tool[GitLogArgs]):
    """`git_log`: the latest commits, one line each."""

    name: ClassVar[str] = "git_log"
    Args: ClassVar[type[BaseModel]] = GitLogArgs
    effect: ClassVar[Effect] = Effect.READ

    async def run(self, args: GitLogArgs, context: ToolContext) -> ToolResult:
        """Newest first, as the seven first digits of the hash and the subject."""
        return await in_thread(_log, args, context)


def _log(args: GitLogArgs, context: ToolContext) -> ToolResult:
    repository = Repository(context.workspace)
    if not repository.has_commits():
        raise ToolError("the repository has no commits yet.")
    narrow = ("--", repository.pathspec(args.path)) if args.path or repository.prefix else ()
    flags = ("--no-color", "--no-show-signature", "--no-ext-diff", "--no-textconv", "--no-patch")
    text = repository.run("log", f"--max-count={args.limit}", *flags, "--format=%H %s", *narrow).text
    lines = [f"{line[:7]} {line.partition(' ')[2]}".rstrip() for line in plain(text).splitlines()]
    return ToolResult("\n".join(lines) or "No commits.")
