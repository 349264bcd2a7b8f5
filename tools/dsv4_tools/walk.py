"""The files of the workspace that are worth searching: ignore rules respected, links not followed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pathspec

from dsv4_tools.base import ToolError
from dsv4_tools.ignore_rules import read_rules
from dsv4_tools.workspace import Workspace

_RULES_LIMIT = 1_000_000
_SECONDS = 20.0


class _Rules:
    """The `.gitignore` rules that hold in one folder: its own and those of the folders above it."""

    def __init__(self, layers: tuple[tuple[str, pathspec.GitIgnoreSpec], ...] = ()) -> None:
        self._layers = layers

    def with_folder(self, folder: Path, prefix: str) -> _Rules:
        """These rules and those of `folder`; `prefix` is its path from the root with a `/`, or empty."""
        spec = _read_rules(folder / ".gitignore")
        return self if spec is None else _Rules((*self._layers, (prefix, spec)))

    def with_file(self, path: Path) -> _Rules:
        spec = _read_rules(path)
        return self if spec is None else _Rules((*self._layers, ("", spec)))

    def ignores(self, path: str) -> bool:
        """Whether `path` (from the root, folders with a final `/`) is ignored; the deepest rule decides."""
        for prefix, spec in reversed(self._layers):
            verdict = spec.check_file(path[len(prefix) :]).include
            if verdict is not None:
                return verdict
        return False


def _read_rules(path: Path) -> pathspec.GitIgnoreSpec | None:
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _RULES_LIMIT:
            return None
        lines = path.read_bytes().decode("utf-8", "replace").removeprefix("\ufeff").split("\n")
    except OSError:
        return None
    return read_rules(line.removesuffix("\r") for line in lines)


def files_under(workspace: Workspace, start: Path) -> Iterator[str]:
    """Relative posix paths of the regular files below the folder `start`, sorted within each folder.

    Skipped: `.git`, closed folders, what ignore rules exclude (unless `start` itself is ignored: then it was
    asked for), symbolic links, devices, unreadable folders. Raises ToolError after 20 s.
    """
    rules = _Rules().with_file(workspace.root / ".git" / "info" / "exclude").with_folder(workspace.root, "")
    folder, prefix = workspace.root, ""
    for part in start.relative_to(workspace.root).parts:
        folder, prefix = folder / part, f"{prefix}{part}/"
        if rules.ignores(prefix):
            rules = _Rules()
        rules = rules.with_folder(folder, prefix)
    deadline = time.monotonic() + _SECONDS
    closed = frozenset(workspace.relative(folder) for folder in workspace.closed)
    # A stack: trees may be deeper than Python may recurse.
    folders = [_walk(start, prefix, rules, deadline, closed)]
    while folders:
        match next(folders[-1], None):
            case None:
                folders.pop()
            case str(path):
                yield path
            case inner:
                folders.append(inner)


def _walk(
    folder: Path, prefix: str, rules: _Rules, deadline: float, closed: frozenset[str]
) -> Iterator[str | Iterator[Any]]:
    """What lies in one folder: a path for each file, for each folder the same again."""
    try:
        with os.scandir(folder) as entries:
            listing = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return
    for entry in listing:
        if entry.name == ".git":
            continue
        if time.monotonic() > deadline:
            raise ToolError("the folder holds too many files; give a narrower path.")
        path = prefix + entry.name
        try:
            is_folder = entry.is_dir(follow_symlinks=False)
            if not is_folder and not entry.is_file(follow_symlinks=False):
                continue
        except OSError:
            continue
        if is_folder:
            if path not in closed and not rules.ignores(f"{path}/"):
                inner = Path(entry.path)
                yield _walk(inner, f"{path}/", rules.with_folder(inner, f"{path}/"), deadline, closed)
        elif not rules.ignores(path):
            yield path
