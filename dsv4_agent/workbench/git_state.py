"""What a run did to the repository: an exact before-and-after, whatever the agent used to change it.

Two snapshots of the work tree are written as trees into a throw-away git directory of our own, so nothing is
added to the repository, its configuration (filters, hooks, fsmonitor) has no effect, and edits, shell
commands, new files and commits all show in one diff. The index is copied first: unchanged files are then not
read again. Of files over 16 MB that git does not track only the names are told, and a plain directory that is
large is not recorded at all, since a snapshot copies what it doesn't find in the repository.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dsv4_agent.loop.facts import GitInfo, GitOutcome
from dsv4_agent.workbench.exit_codes import OwnSubtype
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.git_command import comparison_settings, line_of, run_git, top_level

_PREFIX: Final = "dsv4-snapshot-"  # then our process id
_PATTERN_SIGNS: Final = re.compile(rb"[\\*?\[\]!# ]")
_LARGE_FILE: Final = 16 << 20  # bytes
_PLAIN_FILES: Final = 5_000
_PLAIN_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Changes:
    """The difference of two snapshots. `patch` suits `git apply`; paths are relative to the top level.

    `left_out` are those of `files` that are too large for the patch and the numbers.
    """

    files: tuple[str, ...]
    insertions: int
    deletions: int
    patch: bytes
    left_out: tuple[str, ...] = ()

    def diffstat(self) -> dict[str, int]:
        return {"files": len(self.files), "insertions": self.insertions, "deletions": self.deletions}


@dataclass(frozen=True, slots=True)
class Restored:
    """Files that were put back, and those left alone because somebody changed them since."""

    files: tuple[str, ...]
    kept: tuple[str, ...]


class Repository:
    """The workspace's state at the start of a run; also works on a plain directory (no head, no branch)."""

    def __init__(self, directory: Path) -> None:
        """Take the first snapshot. Raises `RunFailure` (54) where there is no git or no room for it."""
        found = top_level(directory)
        self.is_git = found is not None
        self.root = found or directory
        self.recorded = self.is_git or _is_small(self.root)
        _remove_abandoned()
        self._shadow = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        try:
            self.head = line_of(self.root, "rev-parse", "--verify", "-q", "HEAD") if self.is_git else None
            self._branch = (
                line_of(self.root, "symbolic-ref", "-q", "--short", "HEAD") if self.is_git else None
            )
            self._base, self.dirty = "", False
            self._large: dict[bytes, tuple[int, int] | None] = {}  # as they were at first; None: not there
            if self.recorded:
                self._prepare()
                staged = self._staged()
                self._base = self.snapshot()
                self.dirty = self._is_dirty(staged)
        except BaseException:
            self.close()
            raise

    def info(self) -> GitInfo | None:
        """The `git` object of the `init` event."""
        return GitInfo(self.head, self._branch, self.dirty) if self.is_git else None

    def changes(self) -> Changes:
        """Everything that differs from the first snapshot now; `recorded` says whether there is one."""
        found = self.between(self._base, self.snapshot())
        large = tuple(
            sorted(
                os.fsdecode(name) for name, before in self._large.items() if self._state_of(name) != before
            )
        )
        return replace(found, files=tuple(sorted({*found.files, *large})), left_out=large)

    def in_submodules(self, paths: Iterable[Path]) -> tuple[str, ...]:
        """Those of `paths` in a repository inside this one, of which git compares only the commit."""
        if not self.is_git:
            return ()
        rows = self._in_shadow("ls-files", "-s", "-z").split(b"\0")
        links = {os.fsdecode(row.split(b"\t", 1)[1]) for row in rows if row.startswith(b"160000 ")}
        names = [path.relative_to(self.root) for path in paths if path.is_relative_to(self.root)]
        return tuple(sorted(str(name) for name in names if links & {str(p) for p in name.parents}))

    def between(self, base: str, now: str) -> Changes:
        """What differs between two snapshots."""
        numbers = self._in_shadow("diff-tree", "-r", "--numstat", "-z", "--no-renames", base, now)
        files: list[str] = []
        inserted = deleted = 0
        for record in numbers.split(b"\0"):
            if not record:
                continue
            plus, minus, name = record.split(b"\t", 2)
            files.append(name.decode("utf-8", "surrogateescape"))
            inserted += int(plus) if plus != b"-" else 0  # "-": binary
            deleted += int(minus) if minus != b"-" else 0
        patch = self._in_shadow(
            "diff-tree", "-r", "-p", "-M", "--binary", "--full-index", "--no-ext-diff", "--no-textconv",
            "--no-color", "--src-prefix=a/", "--dst-prefix=b/", base, now,
        )  # fmt: skip
        return Changes(tuple(sorted(files)), inserted, deleted, patch)

    def outcome(self, changes: Changes) -> GitOutcome | None:
        """The `git` object of the result: base, head, the commits between, and the diffstat."""
        if not self.is_git:
            return None
        head = line_of(self.root, "rev-parse", "--verify", "-q", "HEAD")
        commits: tuple[str, ...] = ()
        if head and head != self.head:
            span = f"{self.head}..{head}" if self.head else head
            commits = tuple((line_of(self.root, "rev-list", "--reverse", span) or "").split())
        return GitOutcome(self.head, head, commits, changes.diffstat())

    def restore(self, before: str, after: str) -> Restored:
        """Put files that changed from `before` to `after` back, but for those that changed again since.

        Raises `RunFailure` (54) where git can't write them; what it wrote by then stays.
        """
        now = self._blobs(self.snapshot())
        old, new = self._blobs(before), self._blobs(after)
        changed = [path for path in sorted({*old, *new}) if old.get(path) != new.get(path)]
        mine = [path for path in changed if now.get(path) == new.get(path)]
        back = b"".join(path + b"\0" for path in mine if path in old)
        if back:
            names = ("--pathspec-from-file=-", "--pathspec-file-nul")
            done = self._run_in_shadow("checkout", "-q", before, *names, given=back, literal=True)
            self._check(done, "checkout")
        for path in mine:
            if path not in old:
                (self.root / os.fsdecode(path)).unlink(missing_ok=True)
        kept = [path for path in changed if path not in mine]
        return Restored(*(tuple(os.fsdecode(path) for path in paths) for paths in (mine, kept)))

    def _blobs(self, tree: str) -> dict[bytes, bytes]:
        """Path -> mode and content id of every file of a snapshot."""
        rows = self._in_shadow("ls-tree", "-r", "-z", "--full-tree", tree).split(b"\0")
        pairs = (row.split(b"\t", 1) for row in rows if row)
        return {path: what for what, path in pairs}

    def close(self) -> None:
        """Remove the throw-away git directory."""
        shutil.rmtree(self._shadow, ignore_errors=True)

    def _prepare(self) -> None:
        form = (line_of(self.root, "rev-parse", "--show-object-format") or "sha1") if self.is_git else "sha1"
        init = ("init", "-q", "--bare", "--template=", f"--object-format={form}", str(self._shadow))
        self._check(run_git(self.root, *init), "init")
        config = self._shadow / "config"
        text = config.read_text(encoding="utf-8").replace("bare = true", "bare = false")
        settings = comparison_settings(self.root) if self.is_git else ""
        config.write_text(text + settings, encoding="utf-8")
        if self.is_git:
            self._adopt("objects", "index", "info/exclude")

    def _adopt(self, objects: str, index: str, exclude: str) -> None:
        """Let the shadow see the repository's objects, start from its index, and share its ignore list."""
        info = self._shadow / "objects" / "info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "alternates").write_text(f"{self._path_of(objects)}\n", encoding="utf-8")
        if (real_index := self._path_of(index)).is_file():
            shutil.copy2(real_index, self._shadow / "index")  # keeps mtime: git's racy-entry check uses it
        if (real_exclude := self._path_of(exclude)).is_file():
            (self._shadow / "info").mkdir(exist_ok=True)
            shutil.copyfile(real_exclude, self._shadow / "info" / "exclude")

    def _path_of(self, name: str) -> Path:
        return self.root / (line_of(self.root, "rev-parse", "--git-path", name) or f".git/{name}")

    def _staged(self) -> str:
        """The tree of the index as it is; empty where it has none (conflicts)."""
        done = self._run_in_shadow("write-tree")
        return done.stdout.decode("ascii").strip() if done.returncode == 0 else ""

    def _is_dirty(self, staged: str) -> bool:
        if not self.is_git:
            return False
        if self.head is None:
            return bool(self._in_shadow("ls-tree", self._base))
        return {staged, self._base} != {line_of(self.root, "rev-parse", "HEAD^{tree}")}

    def snapshot(self) -> str:
        """The work tree now, as a tree id. Unreadable files are left out, on both sides alike.

        Raises `RunFailure` (54) where it can't be recorded; needs `recorded`.
        """
        self._leave_out_large_files()
        added = self._run_in_shadow("add", "-A", "--ignore-errors", ".")
        if added.returncode != 0 and b"index" in added.stderr:
            (self._shadow / "index").unlink(missing_ok=True)  # e.g. a split index: read everything instead
            self._run_in_shadow("add", "-A", "--ignore-errors", ".")
        return self._in_shadow("write-tree").decode("ascii").strip()

    def _leave_out_large_files(self) -> None:
        untracked = self._run_in_shadow("ls-files", "-o", "-z", "--exclude-standard").stdout.split(b"\0")
        large = [name for name in untracked if name and _size(self.root / os.fsdecode(name)) > _LARGE_FILE]
        for name in large:
            self._large[name] = None if self._base else self._state_of(name)
        if large:
            (self._shadow / "info").mkdir(exist_ok=True)
            with (self._shadow / "info" / "exclude").open("ab") as file:
                file.writelines(b"\n/" + _PATTERN_SIGNS.sub(rb"\\\g<0>", name) for name in large)
                file.write(b"\n")

    def _state_of(self, name: bytes) -> tuple[int, int] | None:
        """Size and time of change; None for a file that isn't there."""
        try:
            status = (self.root / os.fsdecode(name)).lstat()
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns

    def _in_shadow(self, *arguments: str) -> bytes:
        return self._check(self._run_in_shadow(*arguments), arguments[0])

    def _run_in_shadow(
        self, *arguments: str, given: bytes | None = None, literal: bool = False
    ) -> subprocess.CompletedProcess[bytes]:
        place = {"GIT_DIR": str(self._shadow), "GIT_WORK_TREE": str(self.root)}
        if literal:
            place["GIT_LITERAL_PATHSPECS"] = "1"
        return run_git(self.root, *arguments, environment=place, given=given)

    @staticmethod
    def _check(done: subprocess.CompletedProcess[bytes], name: str) -> bytes:
        if done.returncode == 0:
            return done.stdout
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise RunFailure(
            OwnSubtype.TOOLS,
            f"the work tree could not be recorded (git {name}: {words[-1] if words else 'failed'})",
            "Free space in the temporary directory and check the files' permissions.",
        )


def _remove_abandoned() -> None:
    """Snapshots of runs that were killed outright."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        number = folder.name.removeprefix(_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            if number.isdecimal() and folder.stat().st_uid == os.getuid() and not _alive(int(number)):
                shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _is_small(directory: Path) -> bool:
    """Whether a directory may be copied for a comparison; looks at no more files than that takes."""
    files = size = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            files += 1
            size += _size(Path(folder) / name)
            if files > _PLAIN_FILES or size > _PLAIN_BYTES:
                return False
    return True
