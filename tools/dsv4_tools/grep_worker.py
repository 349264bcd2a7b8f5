"""The pure-Python search, run as a program of its own so that a runaway pattern can be killed.

Uses the standard library only. Reads one JSON object from stdin: root, files (relative, sorted), pattern,
literal, keep (how many matches to return), max_bytes per file. Writes one: matches as [path, number, line],
and their total.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any

_LINE_CHARACTERS = 20_000
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def search(request: dict[str, Any]) -> dict[str, Any]:
    """All matching lines of the files, in order; at most `keep` are returned, all are counted."""
    source = re.escape(request["pattern"]) if request["literal"] else request["pattern"]
    try:
        find = re.compile(source).search
    except (re.error, RecursionError, OverflowError) as error:
        return {"error": str(error)}
    matches: list[tuple[str, int, str]] = []
    total = 0
    for path in request["files"]:
        text = _read(os.path.join(request["root"], path), request["max_bytes"])  # noqa: PTH118
        if text is None:
            continue
        lines = text.split("\n")
        if not lines[-1]:
            lines.pop()
        for number, line in enumerate(lines, 1):
            line = line.removesuffix("\r")
            if find(line):
                total += 1
                if len(matches) < request["keep"]:
                    matches.append((path, number, line[:_LINE_CHARACTERS]))
    return {"matches": matches, "total": total}


def _read(path: str, max_bytes: int) -> str | None:
    """The file's text, or None when it is binary, too large, gone or not a regular file any more."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(max_bytes + 1)
    except OSError:
        return None
    if len(data) > max_bytes:
        return None
    if data.startswith(_UTF16):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError:
            return None
    if b"\0" in data:
        return None
    return data.decode("utf-8-sig", "replace")


def main() -> None:
    """Answer one request."""
    answer = search(json.load(sys.stdin.buffer))
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
