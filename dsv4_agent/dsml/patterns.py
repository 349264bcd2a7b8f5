"""Tag patterns that can be matched on an unfinished text.

Python's `re` can't say "so far so good". Each pattern is therefore compiled twice: once as it is, and once so
that every atom may also meet the end of the text. All repeats are bounded, so no input makes a match slow.

In the texts matched here the special tokens are single code points that no decoded UTF-8 contains (lone
surrogates), so that `</think>` the token and `</think>` the letters can be told apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from dsv4_agent.dsml import dialect as wire

MARK_END_THINK = "\ud800"
MARK_DSML = "\ud801"
MARK_THINK = "\ud802"
MARK_EOS = "\ud803"
MARKS = {
    wire.END_THINK: MARK_END_THINK,
    wire.DSML: MARK_DSML,
    wire.THINK: MARK_THINK,
    wire.EOS: MARK_EOS,
}
_SPELLING = {ord(mark): token for token, mark in MARKS.items()}
_ANY_MARK = re.compile("[\ud800-\ud803]")


def spelled(text: str) -> str:
    """Text with every special code point written out again."""
    return text.translate(_SPELLING) if _ANY_MARK.search(text) else text


class Outcome(Enum):
    """Why a pattern did not match."""

    FAIL = "fail"
    MORE = "more"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several sequences."""

    options: tuple[tuple[Atom, ...], ...]


Atom = str | Choice


def literal(text: str) -> tuple[Atom, ...]:
    """One atom a character."""
    return tuple(re.escape(character) for character in text)


def words(*options: str) -> Choice:
    """One of several words."""
    return Choice(tuple(literal(option) for option in options))


def optional(*atoms: Atom) -> Choice:
    """The sequence or nothing."""
    return Choice((atoms, ()))


def _full(atoms: tuple[Atom, ...]) -> str:
    return "".join(
        atom if isinstance(atom, str) else f"(?:{'|'.join(_full(option) for option in atom.options)})"
        for atom in atoms
    )


def _partial(atoms: tuple[Atom, ...]) -> str:
    if not atoms:
        return ""
    head, rest = atoms[0], atoms[1:]
    if isinstance(head, str):
        return f"(?:\\Z|{_ungrouped(head)}{_partial(rest)})"
    return f"(?:{'|'.join(_partial((*option, *rest)) for option in head.options)})"


def _ungrouped(atom: str) -> str:
    return re.sub(r"\(\?P<\w+>", "(?:", atom)


class Pattern:
    """A sequence of atoms, matched at a position; partial matches are recognised."""

    def __init__(self, *atoms: Atom) -> None:
        self._atoms = atoms

    @cached_property
    def _full(self) -> re.Pattern[str]:
        return re.compile(_full(self._atoms))

    @cached_property
    def _partial(self) -> re.Pattern[str]:
        return re.compile(_partial(self._atoms))

    def match(self, text: str, start: int, final: bool) -> re.Match[str] | Outcome:
        """The match at `start`, or MORE while the text may still become one (never when `final`)."""
        found = self._full.match(text, start)
        if found is not None:
            return found
        if final or self._partial.match(text, start) is None:
            return Outcome.FAIL
        return Outcome.MORE


# Cheap tests before the patterns proper: a marked tag (or its beginning at the end of the text).
TAG_START = "<(?=/?[ \\t｜|]{0,4}(?:[\ud801D]|\\Z))"
TAG_NAME_AHEAD = "[ \\t｜|]{0,4}(?:[ptfci]|\\Z)"

_BARS = "[ \\t｜|]{0,4}"
_SPACE = "[ \\t]{0,4}"
_GAP = "[ \\t\\r\\n]{0,8}"
_QUOTE = "[\"'“”„‘’＂]"
_NAME = "[^\"'“”„‘’＂<>\\n\ud800-\ud803]{1,128}"
_MARKER = Choice((("\ud801",), literal("DSML")))
_MARKED: tuple[Atom, ...] = (_BARS, _MARKER, _BARS)
_WRAPPERS = words("tool_calls", "toolcalls", "tool", "function_calls", "calls")


def _attribute(name: str, group: str) -> tuple[Atom, ...]:
    return (*literal(name), _SPACE, "=", _SPACE, _QUOTE, f"(?P<{group}>{_NAME})", _QUOTE)


_INVOKE: tuple[Atom, ...] = (*literal("invoke"), "[ \\t]{1,4}", *_attribute("name", "name"))
_INVOKE_OPEN: tuple[Atom, ...] = ("<", *_MARKED, *_INVOKE, _SPACE, "(?P<closed>/?)", ">")
_CALLS_OPEN: tuple[Atom, ...] = ("<", *_MARKED, _WRAPPERS, _SPACE, ">")
_STRING: tuple[Atom, ...] = (
    "[ \\t]{1,4}",
    *literal("string"),
    _SPACE,
    "=",
    _SPACE,
    _QUOTE,
    words("true", "false"),
    _QUOTE,
)

# A wrapper with its first call: only both together start a block.
WRAPPED_BLOCK = Pattern(*_CALLS_OPEN, _GAP, *_INVOKE_OPEN)
INVOKE_OPEN = Pattern(*_INVOKE_OPEN)
CALLS_OPEN = Pattern(*_CALLS_OPEN)
PARAMETER_OPEN = Pattern(
    "<",
    optional(*_MARKED),
    *literal("parameter"),
    "[ \\t]{1,4}",
    *_attribute("name", "key"),
    optional(*_STRING),
    _SPACE,
    ">",
)
PARAMETER_CLOSE = Pattern("<", "/", *_MARKED, *literal("parameter"), _SPACE, ">")
INVOKE_CLOSE = Pattern("<", "/", *_MARKED, *literal("invoke"), _SPACE, ">")
CALLS_CLOSE = Pattern("<", "/", *_MARKED, _WRAPPERS, _SPACE, ">")
# Inside a value these count only when more structure (or the end of the turn) follows.
_STRUCTURE_AHEAD = Choice((("<", optional("/"), *_MARKED), (MARK_EOS,)))
INVOKE_CLOSE_AND_MORE = Pattern("<", "/", *_MARKED, *literal("invoke"), _SPACE, ">", _GAP, _STRUCTURE_AHEAD)
