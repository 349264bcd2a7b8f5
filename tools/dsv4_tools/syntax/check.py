"""Whether an edit broke the syntax of a file."""

from __future__ import annotations

from dsv4_tools.syntax.languages import syntax_of
from dsv4_tools.syntax.trees import FILE_BYTES, problems


def broken_by(path: str, before: bytes, after: bytes) -> str | None:
    """A line that says where, if `after` has more syntax errors than `before`; else None.

    Files of languages without a grammar, very large ones and such as were broken before are not judged.
    """
    syntax = syntax_of(path)
    if syntax is None or len(after) > FILE_BYTES or len(before) > FILE_BYTES:
        return None
    try:
        now = problems(syntax, after)
        if not now or len(now) <= len(problems(syntax, before)):
            return None
    except ImportError:  # an installation without this grammar
        return None
    changed = _first_difference(before, after)
    found = next((problem for problem in now if problem.line >= changed), None)
    where = f"line {changed}" if found is None else f"line {found.line}, column {found.column}: {found.text}"
    return f"Warning: {path} no longer parses as {syntax.name}; see {where}"


def _first_difference(before: bytes, after: bytes) -> int:
    """The first line, from 1, in which two texts differ."""
    old, new = before.split(b"\n"), after.split(b"\n")
    pairs = enumerate(zip(old, new, strict=False), 1)
    return next((number for number, (a, b) in pairs if a != b), min(len(old), len(new)))
