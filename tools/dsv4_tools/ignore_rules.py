"""The lines of a `.gitignore` as patterns whose time no line can make long: a repository may be hostile.

A regular expression tries every way to share a name out among its stars, and holds the interpreter while it
does. Of the stars in one name, all but the last may take as little as they can and never be tried again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import pathspec

_STAR = "[^/]*"
_FOLDERS = ("(?:.+/)?", "(?:/.+)?")  # `**/` and `/**/`
_FOLDERS_LIMIT = 3
_TAILS = ("(?:(?P<ps_d>/)|$)", "(?P<ps_d>/)", "$")
_TOKEN = re.compile(
    "|".join(map(re.escape, (_STAR, *_FOLDERS, *_TAILS))) + r"|\[\^?\]?(?:\\.|[^\]])*\]|\\.|.", re.DOTALL
)


def read_rules(lines: Iterable[str]) -> pathspec.GitIgnoreSpec:
    """The rules that can be read, in order. Left out: what Git skips, and lines with many `**`."""
    patterns = []
    for line in lines:
        try:
            spec = pathspec.GitIgnoreSpec.from_lines([line])
        except ValueError:  # Git skips a rule it cannot read
            continue
        for pattern in spec.patterns:
            if isinstance(pattern, pathspec.RegexPattern) and pattern.regex is not None:
                source = pattern.regex.pattern
                if sum(source.count(folders) for folders in _FOLDERS) > _FOLDERS_LIMIT:
                    continue
                if (better := steady(source)) != source:
                    pattern.regex = re.compile(better)
            patterns.append(pattern)
    return pathspec.GitIgnoreSpec(patterns)


def steady(source: str) -> str:
    """A regular expression of pathspec's that matches the same without trying many ways."""
    parts: list[str] = []
    name: list[str] = []
    for token in _TOKEN.findall(source):
        if token == "/" or token in _FOLDERS or token in _TAILS:
            parts += [_steady_name(name), token]
            name = []
        else:
            name.append(token)
    return "".join((*parts, _steady_name(name)))


def _steady_name(tokens: Sequence[str]) -> str:
    """`*a*b*c` as the first a, the first b after it, and any c after that."""
    chunks: list[str] = [""]
    for token in tokens:
        if token == _STAR:
            chunks.append("")
        else:
            chunks[-1] += token
    first, *between = chunks
    if not between:
        return first
    *early, last = between
    return first + "".join(f"(?>{_STAR}?{chunk})" for chunk in early if chunk) + _STAR + last
