"""Colours of program text: pygments chooses the words, the palette the colours.

pygments is loaded at the first use. What is long, or has very long lines, is left uncoloured: a lexer's
regular expressions may be slow on text that no person wrote.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Final, Protocol

from rich.style import Style

from dsv4_agent.tui.theme import Palette
from dsv4_agent.tui.transcript.rows import Span

_LONGEST_TEXT: Final = 20_000
_LONGEST_LINE: Final = 600


def highlighted(source: str, language: str, palette: Palette) -> list[list[Span]]:
    """The spans of each line of harmless `source`; `language` is a language's name or a file name."""
    lines = source.split("\n")
    plain = [[(line, palette.text)] for line in lines]
    if len(source) > _LONGEST_TEXT or max(map(len, lines)) > _LONGEST_LINE:
        return plain
    lexer = _lexer(language)
    if lexer is None:
        return plain
    coloured: list[list[Span]] = [[]]
    styles: dict[object, Style] = {}
    for kind, text in lexer.get_tokens(source):
        style = styles.get(kind)
        if style is None:
            style = styles[kind] = _style(tuple(kind), palette)
        first, *others = text.split("\n")
        if first:
            coloured[-1].append((first, style))
        for piece in others:
            coloured.append([(piece, style)] if piece else [])
    # Some lexers end the text with a line feed of their own, a few drop or change characters.
    coloured = coloured[: len(lines)] + [[] for _ in range(len(lines) - len(coloured))]
    for index, line in enumerate(lines):
        if "".join(text for text, _ in coloured[index]) != line:
            coloured[index] = plain[index]
        elif not coloured[index]:
            coloured[index] = [("", palette.text)]
    return coloured


class _Lexer(Protocol):
    def get_tokens(self, text: str, /) -> Iterator[tuple[tuple[str, ...], str]]: ...


@lru_cache(maxsize=64)
def _lexer(language: str) -> _Lexer | None:
    from pygments.lexers import (  # type: ignore[import-untyped]
        get_lexer_by_name,
        get_lexer_for_filename,
    )
    from pygments.util import ClassNotFound  # type: ignore[import-untyped]

    options = {"stripnl": False, "stripall": False, "ensurenl": False}
    name = PurePosixPath(language).name[-100:]
    try:
        if "." in name or name in ("Makefile", "Dockerfile"):
            lexer: _Lexer = get_lexer_for_filename(name, **options)
        else:
            lexer = get_lexer_by_name(name.lower(), **options)
    except (ClassNotFound, ValueError):
        return None
    return lexer


def _style(kind: tuple[str, ...], palette: Palette) -> Style:
    match kind:
        case ("Keyword", "Type", *_) | ("Name", "Builtin", *_):
            return palette.builtin
        case ("Keyword", *_) | ("Operator", "Word", *_):
            return palette.keyword
        case ("Literal", "String", *_):
            return palette.string
        case ("Literal", "Number", *_):
            return palette.number
        case ("Comment", *_):
            return palette.comment
        case ("Name", "Function" | "Class" | "Decorator" | "Tag", *_):
            return palette.function
        case _:
            return palette.text
