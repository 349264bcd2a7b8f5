"""Commit changes."""

from __future__ import annotations

import os
from typing import Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, Field

from dsv4_tools.base import Effect, Tool, ToolContext, ToolError, ToolResult
from dsv4_tools.git_repository import Repository
from dsv4_tools.output import plain
from dsv4_tools.text import encode_argument
from dsv4_tools.threads import in_thread


def _listed(value: object) -> object:
    """One path may come as a plain string."""
    return [value] if isinstance(value, str) else value


class GitCommitArgs(BaseModel):
    """Arguments of `git_commit`."""

    message: str = Field(description="Commit message; the first line is the subject.")
    paths: Annotated[list[str] | None, BeforeValidator(_listed)] = Field(
        default=None, description="Files to commit; all changes when left out."
    )


class GitCommit(Tool[GitCommitArgs]):
    """`git_commit`: stage the paths, or all changes, and commit them."""

    name: ClassVar[str] = "git_commit"
    Args: ClassVar[type[BaseModel]] = GitCommitArgs
    effect: ClassVar[Effect] = Effect.WRITE

    async def run(self, args: GitCommitArgs, context: ToolContext) -> ToolResult:
        """A new commit, never an amended one; no hooks, no signature."""
        return await in_thread(_commit, args, context)


def _commit(args: GitCommitArgs, context: ToolContext) -> ToolResult:
    context.require_writable()
    if not args.message.strip():
        raise ToolError("message is empty.")
    if "\0" in args.message:
        raise ToolError("message contains a NUL byte.")
    encode_argument(args.message, "message")
    repository = Repository(context.workspace)
    if repository.run("ls-files", "--unmerged", "--", ".").text:
        raise ToolError("there are unresolved merge conflicts; resolve them first.")
    paths = [_known(repository, path) for path in args.paths] if args.paths else ["."]
    _refuse_filtered(repository, paths)
    repository.run("add", "--all", "--", *paths)
    changed = repository.run("diff", "--cached", "--quiet", "--no-ext-diff", "--", *paths, ok=(0, 1))
    if changed.code == 0:
        raise ToolError("Nothing to commit.")
    only = ("--only",) if args.paths or repository.prefix else ()
    flags = ("--quiet", "--no-verify", "--no-gpg-sign", "--no-status", "--cleanup=whitespace", "--file=-")
    narrow = ("--", *paths) if only else ()
    repository.run("commit", *flags, *only, *narrow, stdin=args.message, environment=_identity(repository))
    commit = repository.run("rev-parse", "HEAD").text[:7]
    subject = repository.run("log", "--max-count=1", "--no-show-signature", "--format=%s").text.strip()
    return ToolResult(f"Committed {commit}: {plain(subject)}")


def _known(repository: Repository, path: str) -> str:
    """A path that exists or that Git still tracks (a deleted file)."""
    located = repository.workspace.locate(path)
    tracked = repository.run("ls-files", "--cached", "--", located.shown).text
    if not tracked and not os.path.lexists(located.real):
        raise ToolError(f"{located.shown} does not exist.")
    return located.shown


def _refuse_filtered(repository: Repository, paths: list[str]) -> None:
    """A file that Git stores through a filter (LFS) would be committed raw, as no filter runs here.

    Nor are keys committed that lie in a closed folder.
    """
    listed = ("--modified", "--others", "--exclude-standard", "-z", "--", *paths)
    names = repository.run("ls-files", *listed).text
    if not names:
        return
    place = repository.workspace
    if own := next((name for name in names.split("\0") if place.is_closed(place.root / name)), None):
        raise ToolError(f"{own} is the agent's own and is not committed; name the paths, or ignore it.")
    fields = repository.run("check-attr", "--stdin", "-z", "filter", stdin=names).text.split("\0")
    for name, value in zip(fields[0::3], fields[2::3], strict=False):
        if value not in ("unspecified", "unset", ""):
            raise ToolError(f"{name} is stored through the Git filter {value}; commit it with shell.")


def _identity(repository: Repository) -> dict[str, str]:
    """Names for author and committer where neither configuration nor environment gives any."""
    fallback: dict[str, str] = {}
    for part, value in (("name", "dsv4"), ("email", "dsv4@localhost")):
        if repository.run("config", "--get", f"user.{part}", ok=(0, 1)).text.strip():
            continue
        for role in ("AUTHOR", "COMMITTER"):
            if not os.environ.get(f"GIT_{role}_{part.upper()}"):
                fallback[f"GIT_{role}_{part.upper()}"] = value
    return fallback
