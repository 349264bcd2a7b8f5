"""Two engines that find the same lines: ripgrep where it is installed, Python otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsv4_tools.base import ToolError
from dsv4_tools.threads import supervised
from dsv4_tools.workspace import Workspace

SECONDS = 20.0
FILE_BYTES = 5_000_000
EXPLICIT_BYTES = 64_000_000
LINE_CHARACTERS = 20_000
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


class _Failed(Exception):
    """A search program gave up, as ripgrep does for a pattern whose syntax only Python knows."""


def search(query: Query, workspace: Workspace, ripgrep: str | None) -> Hits:
    """Search with ripgrep, or with Python when it is missing or rejects the pattern.

    Raises ToolError for a pattern that neither understands, or a search that takes too long.
    """
    if ripgrep is not None:
        try:
            return _with_ripgrep(ripgrep, query, workspace.root)
        except _Failed:
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
    try:
        output = b"".join(_run([sys.executable, "-I", "-S", str(worker)], json.dumps(request).encode(), root))
    except _Failed as error:
        raise ToolError("the search failed.") from error
    answer = json.loads(output)
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
        for row in _run([*flags, "--", query.pattern, *batch], b"", root):
            if (hit := _parse(row)) is None:
                continue
            path, number, line = hit
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


def _parse(row: bytes) -> tuple[str, int, str] | None:
    name, separator, rest = row.removesuffix(b"\n").partition(b"\0")
    number, colon, line = rest.partition(b":")
    if not separator or not colon or not number.isdigit():
        return None
    text = line.decode("utf-8", "replace").removesuffix("\r").removeprefix("\ufeff")
    return os.fsdecode(name).removeprefix("./"), int(number), text[:LINE_CHARACTERS]


def _is_binary(path: Path) -> bool:
    try:
        data = path.read_bytes()
    except OSError:
        return True
    return b"\0" in data and not data.startswith(_UTF16)


def _run(argv: list[str], stdin: bytes, root: Path) -> Iterator[bytes]:
    """The output of a search program line by line. Raises ToolError when it takes too long or cannot run.

    The last thing yielded is nothing; a failed program raises _Failed at the end.
    """
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    try:
        with tempfile.TemporaryFile() as request:
            request.write(stdin)
            request.seek(0)
            process = subprocess.Popen(
                argv,
                stdin=request,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=root,
                env=environment,
            )
    except OSError as error:
        raise ToolError(f"the search could not be started: {error}.") from error
    with process, supervised(process, SECONDS) as late:
        assert process.stdout is not None
        yield from process.stdout
        code = process.wait()
    if late.is_set():
        raise ToolError(
            f"the search took longer than {SECONDS:.0f} s; use a simpler pattern or a narrower path."
        )
    if code not in (0, 1):
        raise _Failed
