"""The batch's own git repository: worktrees for the items, and not one byte in the user's.

It borrows the user's objects and has its own configuration, so that neither hooks nor filters of the
repository run; nothing is written to the user's repository until `hand_over`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Self

from dsv4_agent.batch.plan import PlanError
from dsv4_agent.workbench.exit_codes import OwnSubtype
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.git_command import (
    FROM_FILES,
    comparison_settings,
    line_of,
    run_git,
    top_level,
    why_no_top_level,
    without_filters,
)

_IDENTITY = ("dsv4", "dsv4@localhost")
_SUBMODULE = b"160000"


@dataclass(frozen=True, slots=True)
class Base:
    """What a batch starts from: the user's repository and one of its commits."""

    repository: Path
    commit: str
    branch: str | None

    @classmethod
    def of(cls, directory: Path, revision: str = "HEAD") -> Self:
        """Look a commit up. Raises `PlanError` where there is no repository or no such commit."""
        top = top_level(directory)
        if top is None:
            cause, remedy = why_no_top_level(directory)
            raise PlanError(f"{cause}; {remedy}, or choose with -C")
        commit = line_of(top, "rev-parse", "--verify", "-q", "--end-of-options", f"{revision}^{{commit}}")
        if commit is None:
            if line_of(top, "rev-parse", "--verify", "-q", "HEAD") is None:
                raise PlanError(f"{top} has no commits; commit something, for a batch starts from a commit")
            raise PlanError(f"base {revision!r} is no commit of {top}; see git log")
        return cls(top, commit, line_of(top, "symbolic-ref", "-q", "--short", "HEAD"))

    def files(self) -> tuple[str, ...]:
        """The files of the commit, without submodules."""
        return tuple(path for mode, path in self._entries() if mode != _SUBMODULE)

    def submodules(self) -> tuple[str, ...]:
        """The commit's submodules, whose folders stay empty in the worktrees."""
        return tuple(path for mode, path in self._entries() if mode == _SUBMODULE)

    def uses_lfs(self) -> bool:
        """Whether some file of the commit is kept in Git LFS: worktrees hold its pointer."""
        found = run_git(self.repository, "grep", "-qE", "filter=lfs", self.commit, "--", "*.gitattributes")
        return found.returncode == 0

    def object_folders(self) -> tuple[Path, ...]:
        """Where the repository's objects lie, those that it borrows included."""
        found: list[Path] = []
        own = line_of(self.repository, "rev-parse", "--git-path", "objects") or ".git/objects"
        waiting = [self.repository / own]
        while waiting:
            folder = waiting.pop(0).resolve()
            if folder in found:
                continue
            found.append(folder)
            with suppress(OSError):
                lines = (folder / "info" / "alternates").read_bytes().splitlines()
                waiting += [folder / os.fsdecode(line) for line in lines if not line.startswith(b"#")]
        return tuple(found)

    def shallow_file(self) -> Path | None:
        """Where the user's repository says that its history is cut, as CI's checkouts are."""
        named = line_of(self.repository, "rev-parse", "--git-path", "shallow")
        path = None if named is None else self.repository / named
        return path if path is not None and path.is_file() else None

    def is_dirty(self) -> bool:
        """Whether the work tree has changes that are not in the commit. Raises `RunFailure` (54)."""
        status = ("status", "--porcelain", "--ignore-submodules=dirty")
        done = run_git(self.repository, *status, environment=without_filters(self.repository))
        return bool(_checked(done, "status"))

    def branch_in_the_way(self, name: str) -> str | None:
        """The user's branch of this name, or one that can't be there beside it: `a` beside `a/b`."""
        parts = name.split("/")
        for count in range(len(parts), 0, -1):
            part = "/".join(parts[:count])
            if line_of(self.repository, "rev-parse", "--verify", "-q", f"refs/heads/{part}") is not None:
                return part
        below = ("for-each-ref", "--count=1", "--format=%(refname:lstrip=2)", f"refs/heads/{name}/")
        return line_of(self.repository, *below) or None

    def _entries(self) -> Iterator[tuple[bytes, str]]:
        rows = _checked(
            run_git(self.repository, "ls-tree", "-r", "-z", "--full-tree", self.commit), "ls-tree"
        )
        for row in rows.split(b"\0"):
            if row:
                what, path = row.split(b"\t", 1)
                yield what.split(b" ", 1)[0], os.fsdecode(path)


class Checkouts:
    """A bare repository in the batch's folder, and worktrees of it."""

    def __init__(self, base: Base, folder: Path) -> None:
        self.base = base
        self.folder = folder
        self._git = folder / "repository.git"
        self._trees = folder / "worktrees"

    @property
    def git(self) -> Path:
        """The bare repository."""
        return self._git

    def prepare(self) -> None:
        """Make the repository, if it isn't there. Raises `RunFailure` (54)."""
        if self.is_ready():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._git, ignore_errors=True)
        self._trees.mkdir(parents=True, exist_ok=True)
        user = self.base.repository
        form = line_of(user, "rev-parse", "--show-object-format") or "sha1"
        made = ("init", "-q", "--bare", "--template=", f"--object-format={form}", str(self._git))
        _checked(run_git(self.folder, *made), "init")
        objects = self.base.object_folders()[0]
        (self._git / "objects" / "info").mkdir(parents=True, exist_ok=True)
        (self._git / "objects" / "info" / "alternates").write_bytes(os.fsencode(objects) + b"\n")
        if (shallow := self.base.shallow_file()) is not None:
            shutil.copyfile(shallow, self._git / "shallow")
        settings = comparison_settings(user)
        name, email = (
            line_of(user, "config", f"user.{key}") or fallback
            for key, fallback in zip(("name", "email"), _IDENTITY, strict=True)
        )
        for key, value in (("user.name", name), ("user.email", email), ("gc.auto", "0")):
            _checked(run_git(self._git, "--git-dir", str(self._git), "config", key, value), "config")
        if settings:
            with (self._git / "config").open("a", encoding="utf-8") as file:
                file.write(f"[core]\n{settings}")
        self._run("update-ref", "refs/heads/base", self.base.commit)
        (self._git / "ready").touch()

    def is_ready(self) -> bool:
        """Whether the repository has been made."""
        return (self._git / "ready").exists()

    def worktree(self, name: str, commit: str | None = None) -> Path:
        """A fresh worktree `name` of a commit (default: the base) on a branch of its own.

        One that is there is replaced. Raises `RunFailure` (54) where git can't make it, on a full disk for
        instance; nothing is left of it then.
        """
        path = self.path(name)
        self.remove(name)
        start = commit or self.base.commit
        try:
            self._run("worktree", "add", "-q", "-f", "-B", f"work/{name}", str(path), start)
        except RunFailure:
            self.remove(name)
            raise
        return path

    def path(self, name: str) -> Path:
        """Where worktree `name` is or would be."""
        return self._trees / name

    def remove(self, name: str) -> None:
        """Remove a worktree, if it is there."""
        path = self.path(name)
        if path.exists():
            _make_removable(path)
            shutil.rmtree(path, ignore_errors=True)
        run_git(self.folder, "--git-dir", str(self._git), "worktree", "prune")

    def git_folder(self, name: str) -> Path:
        """The git folder of worktree `name`."""
        return self._git / "worktrees" / name

    def commit_of(self, tree: str, parent: str, message: str) -> str:
        """A commit of a tree on a parent; its id. Raises `RunFailure` (54)."""
        place = ("--git-dir", str(self._git))
        made = ("commit-tree", tree, "-p", parent, "-F", "-")
        done = run_git(self.folder, *place, *made, given=message.encode("utf-8", "replace"))
        return _text(_checked(done, "commit-tree"))

    def hand_over(self, commit: str, branch: str) -> None:
        """Put a commit into the user's repository as a new branch.

        One that is there with the same content, message and parent is what an earlier process handed over.
        Raises `RunFailure` (54) for any other, and where it fails; the user's branches are then as they were.
        """
        self._run("update-ref", "refs/handed/over", commit)
        user = self.base.repository
        pull = ("fetch", "-q", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance")
        what = ("--no-recurse-submodules", str(self._git), "refs/handed/over")
        _checked(run_git(user, *pull, *what, environment=FROM_FILES), "fetch")
        made = run_git(user, "update-ref", f"refs/heads/{branch}", commit, "0" * len(commit))
        if made.returncode and not self._is_there(commit, branch):
            cause = f"the branch {branch} can't be made"
            if there := self.base.branch_in_the_way(branch):
                raise RunFailure(
                    OwnSubtype.TOOLS, f"{cause}: there is {there} by now", "Rename or delete that one."
                )
            _checked(made, "update-ref")

    def _is_there(self, commit: str, branch: str) -> bool:
        """Whether the user's branch is this commit, dates apart."""
        user, form = self.base.repository, ("log", "-1", "--format=%T %P%n%B")
        theirs = line_of(user, *form, f"refs/heads/{branch}")
        return theirs is not None and theirs == line_of(user, *form, commit)

    def close(self) -> None:
        """Remove the repository and every worktree of it."""
        for path in self._trees.iterdir() if self._trees.is_dir() else ():
            _make_removable(path)
            shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(self._git, ignore_errors=True)

    def _run(self, *arguments: str) -> bytes:
        return _checked(run_git(self.folder, "--git-dir", str(self._git), *arguments), arguments[0])


def branch_is_valid(name: str) -> bool:
    """Whether git takes `name` for a branch."""
    return run_git(Path.cwd(), "check-ref-format", "--branch", name).returncode == 0


def _make_removable(path: Path) -> None:
    """Folders that a command made unwritable would stay behind."""
    for folder, names, _ in os.walk(path):
        for name in names:
            inner = Path(folder) / name
            if not inner.is_symlink() and not os.access(inner, os.W_OK | os.X_OK):
                inner.chmod(0o700)


def _text(data: bytes) -> str:
    return data.decode("ascii").strip()


def _checked(done: CompletedProcess[bytes], name: str) -> bytes:
    if done.returncode == 0:
        return done.stdout
    words = done.stderr.decode("utf-8", "replace").strip().splitlines()
    raise RunFailure(
        OwnSubtype.TOOLS,
        f"git {name} failed: {words[-1] if words else f'exit {done.returncode}'}",
        "Free space and check the rights of the batch's folder.",
    )
