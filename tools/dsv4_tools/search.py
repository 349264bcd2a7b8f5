"""Two engines that find the same lines: ripgrep where it is installed, Python otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsv4_tools.base import ToolError
from dsv4_tools.workspace import Workspace

SECONDS = 20.0
FILE_BYTES = 5_000_000
EXPLICIT_BYTES = 64_000_000
_BATCH = 1_000
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_FLAGS = ("--no-config", "--no-messages", "--color=never", "--no-heading", "--with-filename", "--line-number")
_MORE_FLAGS = ("--null", "--crlf", "--threads=1", "--no-ignore", "--hidden", "--max-columns=0")


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for in which files (relative to the workspace root, sorted)."""

    pattern: str
    literal: bool
    files: Sequence[str]
    keep: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Hits:
    """The first `keep` matching lines as (path, line number, line), and how many there are in all."""

    lines: list[tuple[str, int, str]]
    total: int


class _Unsupported(Exception):
    """ripgrep does not know this pattern's syntax; Python may."""


def search(query: Query, workspace: Workspace, ripgrep: str | None) -> Hits:
    """Search with ripgrep, or with Python when it is missing or rejects the pattern.

    Raises ToolError for a pattern that neither understands, or a search that takes too long.
    """
    if ripgrep is not None:
        try:
            return _with_ripgrep(ripgrep, query, workspace.root)
        except _Unsupported:
            pass
    return _with_python(query, workspace.root)


def _with_python(query: Query, root: Path) -> Hits:
    request = {
        "root": str(root),
        "files": list(query.files),
        "pattern": query.pattern,
        "literal": query.literal,
        "keep": query.keep,
        "max_bytes": query.max_bytes,
    }
    worker = Path(__file__).with_name("grep_worker.py")
    done = _run([sys.executable, "-I", "-S", str(worker)], json.dumps(request).encode(), root)
    if done.returncode:
        raise ToolError(f"the search failed (exit {done.returncode}).")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise ToolError(
            f"invalid regular expression: {answer['error']}; set literal to search for plain text."
        )
    return Hits([(path, number, line) for path, number, line in answer["matches"]], answer["total"])


def _with_ripgrep(program: str, query: Query, root: Path) -> Hits:
    kept: list[tuple[str, int, str]] = []
    total = 0
    binary: dict[str, bool] = {}
    flags = [program, *_FLAGS, *_MORE_FLAGS, *(["--fixed-strings"] if query.literal else [])]
    for batch in _batches(_within(query.files, root, query.max_bytes)):
        done = _run([*flags, "--", query.pattern, *batch], b"", root)
        if done.returncode not in (0, 1) and not done.stdout:
            raise _Unsupported
        for path, number, line in _parse(done.stdout):
            if path not in binary:
                binary[path] = _is_binary(root / path)
            if binary[path]:
                continue
            total += 1
            if len(kept) < query.keep:
                kept.append((path, number, line))
    return Hits(kept, total)


def _within(files: Sequence[str], root: Path, max_bytes: int) -> Iterator[str]:
    for path in files:
        try:
            if os.stat(root / path, follow_symlinks=False).st_size <= max_bytes:  # noqa: PTH116
                yield path
        except OSError:
            continue


def _batches(files: Iterator[str]) -> Iterator[list[str]]:
    """Groups that fit on a command line; `./` keeps a name from being read as an option."""
    batch: list[str] = []
    for path in files:
        batch.append(f"./{path}")
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _parse(output: bytes) -> Iterator[tuple[str, int, str]]:
    for row in output.split(b"\n"):
        name, separator, rest = row.partition(b"\0")
        number, colon, line = rest.partition(b":")
        if separator and colon and number.isdigit():
            text = line.decode("utf-8", "replace").removesuffix("\r")
            yield os.fsdecode(name).removeprefix("./"), int(number), text.removeprefix("\ufeff")


def _is_binary(path: Path) -> bool:
    try:
        data = path.read_bytes()
    except OSError:
        return True
    return b"\0" in data and not data.startswith(_UTF16)


def _run(argv: list[str], stdin: bytes, root: Path) -> subprocess.CompletedProcess[bytes]:
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "utf-8:surrogateescape"}
    try:
        return subprocess.run(
            argv, input=stdin, capture_output=True, timeout=SECONDS, check=False, cwd=root, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise ToolError(
            f"the search took longer than {SECONDS:.0f} s; use a simpler pattern or a narrower path."
        ) from error
    except OSError as error:
        raise ToolError(f"the search could not be started: {error}.") from error
