"""Where an edit applies: exactly, or after one of three named relaxations.

The ladder never guesses: each rung either finds text that is equal after a stated normalisation, or nothing.
Lines of the block that the edit leaves alone keep their bytes, whatever was relaxed to find them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

RELAXED_LIMIT = 2_000_000  # characters; the relaxed rungs keep a position for each
_BLANKS = " \t\r\f\v"
_CARRIAGE_RETURN = re.compile(r"\r(?=\n)")
_TRAILING = re.compile(r"[ \t\r\f\v]+(?=\n|\Z)")
_PUNCTUATION = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033", '"'),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
        **dict.fromkeys("\u00a0\u2002\u2003\u2007\u2009\u202f\u3000", " "),
    }
)


class Match(StrEnum):
    """What had to be relaxed to find the text."""

    EXACT = "exact"
    WHITESPACE = "whitespace"
    UNICODE = "unicode"
    INDENT = "indent"


@dataclass(frozen=True, slots=True)
class Splice:
    """Replace `text[start:end]` by `new`."""

    start: int
    end: int
    new: str


@dataclass(frozen=True, slots=True)
class Found:
    """The places of an edit and the rung that found them; several only when all are to be replaced."""

    match: Match
    splices: tuple[Splice, ...]


class NotFound(Exception):
    """No rung found the text."""


class Ambiguous(Exception):
    """A rung found the text more than once; `count` says how often."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} places")
        self.count = count


def find(text: str, old: str, new: str, *, replace_all: bool) -> Found:
    """The first rung that finds `old` in `text` decides. Raises NotFound or Ambiguous."""
    if places := _occurrences(text, old):
        _require_unique(places, replace_all)
        starts = _without_overlap(places, len(old))
        return Found(
            Match.EXACT,
            tuple(Splice(_start(text, at), at + len(old), _with_eol(text, at, new)) for at in starts),
        )
    if len(text) > RELAXED_LIMIT:
        raise NotFound
    crlf = "\r\n" in old
    if crlf:  # line endings are relaxed first: the file's own are used
        old, new = old.replace("\r\n", "\n"), new.replace("\r\n", "\n")
    ended = "\n" in old and (crlf or "\r\n" in text)
    if ended and (splices := _normalised(text, old, new, _CARRIAGE_RETURN, _same, replace_all)):
        return Found(Match.WHITESPACE, splices)
    if old.strip():
        for match, fold in ((Match.WHITESPACE, _same), (Match.UNICODE, _fold_punctuation)):
            if splices := _normalised(text, old, new, _TRAILING, fold, replace_all):
                return Found(match, splices)
        if splices := _indented(text, old, new):
            return Found(Match.INDENT, splices)
    raise NotFound


def apply(text: str, splices: tuple[Splice, ...]) -> str:
    """The text with every splice done; splices are sorted and do not overlap."""
    pieces: list[str] = []
    at = 0
    for splice in splices:
        pieces += (text[at : splice.start], splice.new)
        at = splice.end
    return "".join((*pieces, text[at:]))


def _occurrences(text: str, old: str) -> list[int]:
    """Every start of `old`, overlapping ones included: they make an edit ambiguous as well."""
    places: list[int] = []
    at = text.find(old)
    while at >= 0:
        places.append(at)
        at = text.find(old, at + 1)
    return places


def _without_overlap(places: list[int], length: int) -> list[int]:
    kept: list[int] = []
    for at in places:
        if not kept or at >= kept[-1] + length:
            kept.append(at)
    return kept


def _require_unique(places: list[int], replace_all: bool) -> None:
    if len(places) > 1 and not replace_all:
        raise Ambiguous(len(places))


def _eol(text: str, at: int) -> str:
    """The line ending used around `at`: that of its own line, else of the line before."""
    newline = text.find("\n", at)
    if newline < 0:
        newline = text.rfind("\n", 0, at)
    return "\r\n" if newline > 0 and text[newline - 1] == "\r" else "\n"


def _start(text: str, at: int) -> int:
    """Where a block begins that was found at `at`: its first newline brings the carriage return before it."""
    return at - 1 if text.startswith("\r\n", at - 1) and at > 0 else at


def _with_eol(text: str, at: int, new: str) -> str:
    if "\n" not in new or "\r" in new or _eol(text, at) == "\n":
        return new
    return new.replace("\n", "\r\n")


def _same(text: str) -> str:
    return text


def _fold_punctuation(text: str) -> str:
    """Typographic quotes, dashes and spaces as their plain forms, one character for one."""
    return text.translate(_PUNCTUATION)


def _normalised(
    text: str,
    old: str,
    new: str,
    dropped: re.Pattern[str],
    fold: Callable[[str], str],
    replace_all: bool,
) -> tuple[Splice, ...]:
    """Places where `old` stands when what is `dropped` before line ends and what `fold` folds don't count."""
    stripped, origin = _without(dropped, text)
    haystack = fold(stripped)
    needle = fold(dropped.sub("", old))
    trailing = dropped is _TRAILING
    must_end_line = trailing and old[-1] in _BLANKS  # the blanks just dropped stood at a line's end
    places = [
        at for at in _occurrences(haystack, needle) if not must_end_line or _ends_line(haystack, at, needle)
    ]
    if not places and trailing and old.endswith("\n") and not haystack.endswith("\n"):
        return _at_unended_last_line(text, haystack, origin, old, new, needle)
    _require_unique(places, replace_all)
    splices: list[Splice] = []
    for at in _without_overlap(places, len(needle)):
        start, end = _start(text, origin[at]), origin[at + len(needle) - 1] + 1
        splices.append(Splice(start, end, _merge(text, start, end, old, new, new)))
    return tuple(splices)


def _ends_line(haystack: str, at: int, needle: str) -> bool:
    end = at + len(needle)
    return end == len(haystack) or haystack[end] == "\n"


def _at_unended_last_line(
    text: str, haystack: str, origin: list[int], old: str, new: str, needle: str
) -> tuple[Splice, ...]:
    """`old` ends with a newline that the file's last line lacks: match there, and add none."""
    body = needle[:-1]
    if not body.strip() or not haystack.endswith(body) or (new and not new.endswith("\n")):
        return ()
    start = _start(text, origin[len(haystack) - len(body)])
    end = origin[-1] + 1
    return (Splice(start, end, _merge(text, start, end, old[:-1], new[:-1], new[:-1])),)


def _without(dropped: re.Pattern[str], text: str) -> tuple[str, list[int]]:
    """The text without what `dropped` matches, and for each kept character where it came from."""
    pieces: list[str] = []
    origin: list[int] = []
    at = 0
    for blanks in dropped.finditer(text):
        pieces.append(text[at : blanks.start()])
        origin.extend(range(at, blanks.start()))
        at = blanks.end()
    pieces.append(text[at:])
    origin.extend(range(at, len(text)))
    return "".join(pieces), origin


def _merge(text: str, start: int, end: int, old: str, new: str, inserted: str) -> str:
    """The block `text[start:end]`, which stands for `old`, turned into `new`.

    Lines that `old` and `new` have in common keep the block's own bytes; the others come from `inserted`,
    which is `new` line by line as it should appear in the file, and get the line ending used there.
    """
    own = text[start:end].split("\n")
    fresh = inserted.split("\n")
    before, after = old.split("\n"), new.split("\n")
    crlf = "\r" not in new and _eol(text, start) == "\r\n"
    lines: list[str] = []
    ended: list[bool] = []  # whether the line brings its carriage return, if any, along
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, before, after, False).get_opcodes():
        if tag == "equal":
            lines += own[i1:i2]
            ended += [i < len(own) - 1 for i in range(i1, i2)]
        else:
            lines += fresh[j1:j2]
            ended += [False] * (j2 - j1)
    for at, line in enumerate(lines[:-1]):
        if crlf and not ended[at]:
            lines[at] = line + "\r"
    if ended[-1]:  # what follows the block ends this line
        lines[-1] = lines[-1].removesuffix("\r")
    return "\n".join(lines)


def _indented(text: str, old: str, new: str) -> tuple[Splice, ...]:
    """The one block of whole lines that equals `old` but for a constant shift of its indentation."""
    whole = old.endswith("\n")
    wanted = [line.rstrip(_BLANKS) for line in (old[:-1] if whole else old).split("\n")]
    raw = text.split("\n")
    lines = [line.rstrip(_BLANKS) for line in raw]
    anchor = next(i for i, line in enumerate(wanted) if line)
    hits: list[tuple[int, Callable[[str], str | None]]] = []
    for at in range(len(lines) - len(wanted) + 1):
        if lines[at + anchor].lstrip() != wanted[anchor].lstrip():
            continue
        if shift := _shift(wanted, lines[at : at + len(wanted)]):
            hits.append((at, shift))
    if len(hits) > 1:
        raise Ambiguous(len(hits))
    if not hits:
        return ()
    at, shift = hits[0]
    new_whole = new.endswith("\n")
    moved: list[str] = []
    for line in new.split("\n"):
        shifted = shift(line) if line.strip() else line
        if shifted is None:
            return ()
        moved.append(shifted)
    start = sum(len(line) + 1 for line in raw[:at])
    end = start + sum(len(line) + 1 for line in raw[at : at + len(wanted)]) - 1
    if text[end - 1 : end] == "\r" and text[end : end + 1] == "\n":
        end -= 1
    inserted = "\n".join(moved)
    if whole and (new_whole or not new):
        ended = text.find("\n", end)
        if not new and ended >= 0:
            return (Splice(start, ended + 1, ""),)
        return (Splice(start, end, _merge(text, start, end, old[:-1], new[:-1], inserted[:-1])),)
    if whole:
        return ()
    return (Splice(start, end, _merge(text, start, end, old, new, inserted)),)


def _shift(wanted: list[str], lines: list[str]) -> Callable[[str], str | None] | None:
    """How to move a line from the indentation of `wanted` to that of `lines`, if one rule fits all lines."""
    pairs: list[tuple[str, str]] = []
    for want, line in zip(wanted, lines, strict=True):
        if want.lstrip() != line.lstrip():
            return None
        if want:
            pairs.append((_indent(want), _indent(line)))
    first_want, first_line = pairs[0]
    if first_line.endswith(first_want):
        more = first_line[: len(first_line) - len(first_want)]
        if all(line == more + want for want, line in pairs):
            return lambda text: more + text
    if first_want.endswith(first_line):
        less = first_want[: len(first_want) - len(first_line)]
        if all(want == less + line for want, line in pairs):
            return lambda text: text[len(less) :] if text.startswith(less) else None
    return _tabs(pairs)


def _tabs(pairs: list[tuple[str, str]]) -> Callable[[str], str | None] | None:
    """The rule for a block written with spaces that the file indents with tabs."""
    if any(set(want) - {" "} or set(line) - {"\t"} for want, line in pairs):
        return None
    for unit in (4, 2, 8, 3):
        if any(len(want) % unit for want, _ in pairs):
            continue
        depths = {len(line) - len(want) // unit for want, line in pairs}
        if len(depths) == 1:
            return _to_tabs(unit, depths.pop())
    return None


def _to_tabs(unit: int, deeper: int) -> Callable[[str], str | None]:
    def move(text: str) -> str | None:
        indent = _indent(text)
        if set(indent) - {" "}:
            return None
        tabs = len(indent) // unit + deeper
        return None if tabs < 0 else "\t" * tabs + " " * (len(indent) % unit) + text[len(indent) :]

    return move


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]
