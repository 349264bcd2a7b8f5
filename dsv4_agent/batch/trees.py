"""The content of a worktree as trees: taken, compared, put back. Ignored files are no part of it.

An index of our own is used and the git folder is named explicitly, so neither the index that the agent sees
nor anything that it does to `.git` plays a part.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import CompletedProcess

from dsv4_agent.workbench.exit_codes import OwnSubtype
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.git_command import run_git

_DIFF = (
    *("diff-tree", "-r", "-p", "--binary", "--full-index", "--no-renames", "--no-ext-diff"),
    *("--no-textconv", "--no-color", "--src-prefix=a/", "--dst-prefix=b/"),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """What changed between two trees. `patch` suits `git apply`."""

    files: tuple[str, ...]
    insertions: int
    deletions: int
    patch: bytes


@dataclass(frozen=True, slots=True)
class Trees:
    """The trees of one worktree; `git` is the git folder that it belongs to. All raise `RunFailure` (54)."""

    worktree: Path
    git: Path
    index: Path

    def take(self) -> str:
        """The worktree's content now, as a tree id."""
        self._run("add", "-A", ".")
        return self._run("write-tree").decode("ascii").strip()

    def restore(self, tree: str) -> None:
        """Make the worktree's content that of a tree again."""
        self._run("add", "-A", ".")
        self._run("read-tree", "--reset", "-u", tree)

    def between(self, before: str, after: str) -> Difference:
        """What differs between two trees."""
        numbers = self._run("diff-tree", "-r", "--numstat", "-z", "--no-renames", before, after)
        files: list[str] = []
        inserted = deleted = 0
        for record in numbers.split(b"\0"):
            if record:
                plus, minus, name = record.split(b"\t", 2)
                files.append(os.fsdecode(name))
                inserted += int(plus) if plus != b"-" else 0  # "-": binary
                deleted += int(minus) if minus != b"-" else 0
        return Difference(tuple(files), inserted, deleted, self._run(*_DIFF, before, after))

    def applied(self, tree: str, patch: bytes) -> str | tuple[str, ...]:
        """The tree that a patch makes of a tree, or the paths in conflict; the worktree plays no part."""
        # For a file that a patch adds and the tree has, git looks into the worktree even with --cached: into
        # an empty one it puts the tree's version.
        with tempfile.TemporaryDirectory(prefix="applied-", dir=self.index.parent) as empty:
            index = self.index.with_name(f"{self.index.name}.pure")
            pure = replace(self, index=index, worktree=Path(empty))
            pure._run("read-tree", "--reset", tree)
            done = pure._git("apply", "--cached", "--3way", "--whitespace=nowarn", "-", given=patch)
            if done.returncode == 0:
                return pure._run("write-tree").decode("ascii").strip()
            return pure._conflicts(done.stderr)

    def apply(self, patch: bytes) -> tuple[str, ...]:
        """Apply a patch to the worktree; the paths in conflict, none when it went well.

        Where there is a conflict, the worktree is as before.
        """
        before = self.take()
        done = self._git("apply", "--3way", "--whitespace=nowarn", "-", given=patch)
        if done.returncode == 0:
            return ()
        paths = self._conflicts(done.stderr)
        self._run("read-tree", "--reset", "-u", before)
        return paths

    def _conflicts(self, stderr: bytes) -> tuple[str, ...]:
        unmerged = self._git("ls-files", "--unmerged", "-z").stdout.split(b"\0")
        paths = [os.fsdecode(row.split(b"\t", 1)[1]) for row in unmerged if row]
        return tuple(dict.fromkeys(paths)) or _named(stderr) or ("?",)

    def _run(self, *arguments: str) -> bytes:
        done = self._git(*arguments)
        if done.returncode == 0:
            return done.stdout
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise RunFailure(
            OwnSubtype.TOOLS,
            f"git {arguments[0]} failed in {self.worktree}: {words[-1] if words else 'no reason given'}",
            "Free space and check the rights of the batch's folder.",
        )

    def _git(self, *arguments: str, given: bytes | None = None) -> CompletedProcess[bytes]:
        place = {
            "GIT_DIR": str(self.git),
            "GIT_WORK_TREE": str(self.worktree),
            "GIT_INDEX_FILE": str(self.index),
        }
        return run_git(self.worktree, *arguments, environment=place, given=given)


_UNFIT = (
    ": does not exist in index",
    ": already exists in index",
    ": already exists in working directory",
    ": does not match index",
    ": patch does not apply",
    ": wrong type",
)


def _named(stderr: bytes) -> tuple[str, ...]:
    """The files that `git apply` says don't fit."""
    found: list[str] = []
    for line in stderr.decode("utf-8", "replace").splitlines():
        if line.startswith("error: patch failed: "):
            found.append(line.removeprefix("error: patch failed: ").rpartition(":")[0])
        else:
            found += [line.removeprefix("error: ").removesuffix(end) for end in _UNFIT if line.endswith(end)]
    return tuple(dict.fromkeys(found))
