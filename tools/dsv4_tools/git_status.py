"""Show the branch and the changed files."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel

from dsv4_tools.base import Effect, Tool, ToolContext, ToolResult
from dsv4_tools.git_repository import Repository
from dsv4_tools.output import bounded
from dsv4_tools.threads import in_thread


class GitStatusArgs(BaseModel):
    """`git_status` takes no arguments."""


class GitStatus(Tool[GitStatusArgs]):
    """`git_status`: branch, then one line a changed file in Git's short format."""

    name: ClassVar[str] = "git_status"
    Args: ClassVar[type[BaseModel]] = GitStatusArgs
    effect: ClassVar[Effect] = Effect.READ

    async def run(self, args: GitStatusArgs, context: ToolContext) -> ToolResult:
        """The state of the work tree below the workspace."""
        return await in_thread(_status, context)


def _status(context: ToolContext) -> ToolResult:
    repository = Repository(context.workspace)
    flags = ("--porcelain=v1", "--untracked-files=all", "--ignore-submodules=dirty", "--no-renames")
    listing = repository.run("status", *flags, "--", ".").text
    lines = [_relative(line, repository.prefix) for line in listing.splitlines()]
    kept = bounded("\n".join([_head(repository), *(lines or ["Clean."])]), context.spill_dir, "git_status")
    return ToolResult(kept.text, truncated=kept.omitted > 0, output_path=kept.path)


def _head(repository: Repository) -> str:
    branch = repository.run("symbolic-ref", "--short", "--quiet", "HEAD", ok=(0, 1))
    if branch.code == 0:
        return f"On branch {branch.text.strip()}"
    return f"HEAD detached at {repository.run('rev-parse', 'HEAD').text[:7]}"


def _relative(line: str, prefix: str) -> str:
    """Git names paths from the repository's top; the workspace may lie below it."""
    state, path = line[:3], line[3:]
    if path.startswith('"'):
        return state + '"' + path[1:].removeprefix(prefix)
    return state + path.removeprefix(prefix)
