"""Glob patterns as regular expressions, the same wherever a tool takes one."""

from __future__ import annotations

import functools
import re

from dsv4_tools.base import ToolError


@functools.lru_cache(maxsize=64)
def glob_regex(pattern: str) -> re.Pattern[str]:
    """A compiled pattern to use with `fullmatch` on a posix path.

    `*` and `?` stop at slashes, `**` spans any folders, `[...]` is a set, `{a,b}` are alternatives.
    Raises ToolError for an unclosed bracket or brace.
    """
    try:
        return re.compile(_translate(pattern), re.DOTALL)
    except re.error as error:
        raise ToolError(f"invalid glob pattern {pattern}: {error}.") from error


def _translate(pattern: str) -> str:
    out: list[str] = []
    at = depth = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        match char:
            case "*" if pattern.startswith("*", at):
                at += 1
                if pattern.startswith("/", at) and (at == 2 or pattern[at - 3] in "/{,"):
                    at += 1
                    out.append("(?:[^/]+/)*")
                else:
                    out.append(".*")
            case "*":
                out.append("[^/]*")
            case "?":
                out.append("[^/]")
            case "[":
                end = pattern.find("]", at + 2 if pattern[at : at + 1] in ("!", "^") else at + 1)
                if end < 0:
                    raise ToolError(f"invalid glob pattern {pattern}: `[` is not closed.")
                out.append(_set(pattern[at:end]))
                at = end + 1
            case "{":
                depth += 1
                out.append("(?:")
            case "}" if depth:
                depth -= 1
                out.append(")")
            case "," if depth:
                out.append("|")
            case "\\" if at < len(pattern):
                out.append(re.escape(pattern[at]))
                at += 1
            case _:
                out.append(re.escape(char))
    if depth:
        raise ToolError(f"invalid glob pattern {pattern}: `{{` is not closed.")
    return "".join(out)


def _set(body: str) -> str:
    negated = body[:1] in ("!", "^")
    inner = body[1:] if negated else body
    inner = inner.replace("\\", r"\\").replace("[", r"\[").replace("^", r"\^").replace("&&", r"&\&")
    return f"(?!/)[^{inner}]" if negated else f"(?!/)[{inner}]"
