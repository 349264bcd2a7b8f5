"""Glob patterns, the same wherever a tool takes one, in time that no pattern can make long.

A regular expression is fast, but one with many wildcards may try every way to share a name out among them,
and nothing can interrupt it. Where that could take long, a slower matcher reads the pattern just once.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Set
from dataclasses import dataclass

from dsv4_tools.base import ToolError

_STEPS = 1_000_000  # ways through a path that a regular expression may have to try
_WILD = {"any": "[^/]*", "deep": ".*", "folders": "(?:[^/]+/)*"}


@dataclass(frozen=True, slots=True)
class _Token:
    """`kind`: text, any (`*`), deep (`**`), folders (`**/`), one character (`?`, `[...]`), choice."""

    kind: str
    text: str = ""
    choices: tuple[tuple[_Token, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern that was read by `compile_glob`."""

    tokens: tuple[_Token, ...]
    regex: re.Pattern[str]
    wildcards: int

    def matches(self, path: str, start: int = 0) -> bool:
        """Whether all of the posix path from `start` on fits."""
        if (len(path) - start) ** self.wildcards <= _STEPS:
            return self.regex.fullmatch(path, start) is not None
        return len(path) in _ends(self.tokens, path, {start})


@functools.lru_cache(maxsize=64)
def compile_glob(pattern: str) -> Glob:
    """Read a pattern: `*` and `?` stop at slashes, `**` spans folders, `[...]` is a set, `{a,b}` a choice.

    Raises ToolError for an unclosed bracket or brace.
    """
    try:
        tokens, _ = _parse(pattern, 0, nested=False)
        return Glob(tokens, re.compile(_regex(tokens), re.DOTALL), _wildcards(tokens))
    except (re.error, RecursionError, OverflowError) as error:
        raise ToolError(f"invalid glob pattern {pattern}: {error}.") from error


def _parse(pattern: str, at: int, *, nested: bool) -> tuple[tuple[_Token, ...], int]:
    """The tokens from `at` on, and where they end: inside braces at the `,` or `}`."""
    tokens: list[_Token] = []
    while at < len(pattern):
        char = pattern[at]
        at += 1
        match char:
            case "*" if pattern.startswith("*", at):
                at += 1
                if pattern.startswith("/", at) and (at == 2 or pattern[at - 3] in "/{,"):
                    at += 1
                    tokens.append(_Token("folders"))
                else:
                    tokens.append(_Token("deep"))
            case "*":
                tokens.append(_Token("any"))
            case "?":
                tokens.append(_Token("one", "[^/]"))
            case "[":
                end = pattern.find("]", at + 2 if pattern[at : at + 1] in ("!", "^") else at + 1)
                if end < 0:
                    raise ToolError(f"invalid glob pattern {pattern}: `[` is not closed.")
                tokens.append(_Token("one", _set(pattern[at:end])))
                at = end + 1
            case "{":
                choices: list[tuple[_Token, ...]] = []
                while True:
                    choice, at = _parse(pattern, at, nested=True)
                    choices.append(choice)
                    at += 1
                    if pattern[at - 1] == "}":
                        break
                tokens.append(_Token("choice", choices=tuple(choices)))
            case "}" | "," if nested:
                return tuple(tokens), at - 1
            case "\\" if at < len(pattern):
                tokens.append(_Token("text", pattern[at]))
                at += 1
            case _:
                tokens.append(_Token("text", char))
    if nested:
        raise ToolError(f"invalid glob pattern {pattern}: `{{` is not closed.")
    return tuple(tokens), at


def _regex(tokens: tuple[_Token, ...]) -> str:
    parts: list[str] = []
    for token in tokens:
        match token.kind:
            case "text":
                parts.append(re.escape(token.text))
            case "one":
                parts.append(token.text)
            case "choice":
                parts.append(f"(?:{'|'.join(_regex(choice) for choice in token.choices)})")
            case kind:
                parts.append(_WILD[kind])
    return "".join(parts)


def _wildcards(tokens: tuple[_Token, ...]) -> int:
    """How many parts may match at several lengths; alternatives count as well."""
    return sum(
        1 + sum(map(_wildcards, token.choices)) if token.kind == "choice" else token.kind in _WILD
        for token in tokens
    )


def _ends(tokens: tuple[_Token, ...], path: str, starts: Set[int]) -> set[int]:
    """Where a match of the tokens can end that begins at one of `starts`: all ways through at once."""
    at = set(starts)
    for token in tokens:
        if not at:
            break
        match token.kind:
            case "text":
                at = {place + 1 for place in at if path.startswith(token.text, place)}
            case "one":
                fits = re.compile(token.text, re.DOTALL).match
                at = {place + 1 for place in at if fits(path, place)}
            case "choice":
                at = {end for choice in token.choices for end in _ends(choice, path, at)}
            case "deep":
                at = set(range(min(at), len(path) + 1))
            case "any":
                at = _within_folder(path, at)
            case _:
                at = _below(path, at)
    return at


def _within_folder(path: str, starts: Set[int]) -> set[int]:
    ends: set[int] = set()
    inside = False
    for place in range(min(starts), len(path) + 1):
        inside = place in starts or (inside and path[place - 1] != "/")
        if inside:
            ends.add(place)
    return ends


def _below(path: str, starts: Set[int]) -> set[int]:
    """The starts, and the beginnings of all parts of the path below them."""
    ends = set(starts)
    for place in range(min(starts), len(path)):
        if place in ends and path[place] != "/" and (slash := path.find("/", place)) >= 0:
            ends.add(slash + 1)
    return ends


def _set(body: str) -> str:
    negated = body[:1] in ("!", "^")
    inner = body[1:] if negated else body
    inner = inner.replace("\\", r"\\").replace("[", r"\[").replace("^", r"\^").replace("&&", r"&\&")
    return f"(?!/)[^{inner}]" if negated else f"(?!/)[{inner}]"
