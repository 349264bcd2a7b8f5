"""Changes in words: a listener can't tell a plus from a minus in passing."""

from __future__ import annotations

from collections.abc import Iterator

_WORDS = {"+": "Added", "-": "Removed", " ": "Same"}
_KEPT_HEADERS = ("new file", "deleted file", "rename ", "copy ", "old mode", "new mode", "Binary files")


def hunk_lines(diff: str) -> Iterator[str]:
    """Unified hunks, a word in front of each line."""
    for line in diff.replace("\r\n", "\n").split("\n"):
        mark, text = line[:1], line[1:]
        if mark == "@":
            yield f"Lines {line.strip('@ ').split(' @@')[0]}"
        elif mark in _WORDS and line:
            yield f"{_WORDS[mark]}: {text}"
        elif line:
            yield f"Note: {line.lstrip(chr(92) + ' ')}"


def patch_lines(patch: str) -> Iterator[str]:
    """A patch of several files: each file's name, what became of it, its hunks."""
    in_header = False
    for line in patch.replace("\r\n", "\n").split("\n"):
        if line.startswith("diff --git "):
            in_header = True
            yield f"File: {line.removeprefix('diff --git ').rpartition(' b/')[2]}"
        elif line.startswith("@@"):
            in_header = False
            yield from hunk_lines(line)
        elif not in_header:
            yield from hunk_lines(line)
        elif line.startswith(_KEPT_HEADERS):
            yield f"Note: {line}"


def counts(added: int, removed: int) -> str:
    """How many lines changed."""
    return f"{added:,} added, {removed:,} removed"
