"""Git folders inside a sandbox: their data may be written, but not what makes Git run programs later."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

_FROZEN = ("config", "config.worktree", "commondir", "gitdir")
_OWN_CONFIG = re.compile(r"worktreeconfig", re.IGNORECASE)


def frozen_mounts(git: Path) -> Iterator[str]:
    """bwrap's arguments. A mount point cannot be renamed away, so `git` is one of its own.

    Other worktrees may go while a command starts, a batch's for instance: those are tried (`-try`).
    """
    yield from ("--bind", str(git), str(git))
    for folder in folders_behind(git):
        hooks = folder / "hooks"
        if hooks.is_dir() and not hooks.is_symlink():
            yield from ("--ro-bind-try", str(hooks), str(hooks))
        elif folder.parent != git / "worktrees":  # those have no hooks of their own
            yield from ("--tmpfs", str(hooks))
        _begin_worktree_config(git, folder)
        for file in (folder / name for name in _FROZEN):
            if file.is_file() and not file.is_symlink():
                yield from ("--ro-bind-try", str(file), str(file))


def folders_behind(git: Path) -> Iterator[Path]:
    """The folder itself, those of its worktrees and those of its submodules, theirs included."""
    yield git
    for folder in _inside(git / "worktrees"):
        if (folder / "HEAD").is_file():
            yield folder
    waiting = _inside(git / "modules")
    while waiting:
        folder = waiting.pop()
        if (folder / "HEAD").is_file():
            yield from folders_behind(folder)
        else:  # the name of a submodule may have slashes in it
            waiting += _inside(folder)


def linked_git(pointer: Path) -> Path | None:
    """The repository behind a worktree's `.git` file, if that repository points back to this worktree.

    Without the second half, a planted file could make any folder writable inside the sandbox.
    """
    try:
        target = pointer.read_text().removeprefix("gitdir:").strip()
        private = (pointer.parent / target).resolve(strict=True)
        back = Path((private / "gitdir").read_text().strip())
        common = (private / (private / "commondir").read_text().strip()).resolve(strict=True)
    except (OSError, UnicodeDecodeError):
        return None
    genuine = back.resolve() == pointer.resolve() and private.parent == common / "worktrees"
    return common if genuine and (common / "objects").is_dir() else None


def _begin_worktree_config(git: Path, folder: Path) -> None:
    """Make an empty `config.worktree` where Git would read one: what is not there can't be frozen."""
    with contextlib.suppress(OSError):
        text = (folder / "config" if (folder / "config").is_file() else git / "config").read_bytes()
        if _OWN_CONFIG.search(text.decode("utf-8", "replace")):
            (folder / "config.worktree").touch(exist_ok=True)


def _inside(folder: Path) -> list[Path]:
    try:
        return (
            [] if folder.is_symlink() else [p for p in folder.iterdir() if p.is_dir() and not p.is_symlink()]
        )
    except OSError:
        return []
