"""Whether a work tree and a git folder belong together: a `.git` file or link can name anybody's."""

from __future__ import annotations

from pathlib import Path


def belong_together(top: Path, git: Path) -> bool:
    """Whether the git folder is the work tree's own.

    It is in the work tree, or a linked worktree's that points back to it, or lies apart and in no other work
    tree (`--separate-git-dir`, a submodule). Otherwise a planted `.git` would show another repository, and
    commit to it.
    """
    top, git = top.resolve(), git.resolve()
    if git.is_relative_to(top):
        return True
    back = git / "gitdir"
    if not back.exists():
        return git.name != ".git"
    try:
        return (git / back.read_text().strip()).parent.resolve() == top
    except (OSError, UnicodeDecodeError):
        return False
