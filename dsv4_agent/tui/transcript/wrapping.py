"""Break harmless text into rows of at most so many cells.

Lazy (a generator), so that six rows of a line of a megabyte cost six rows. Cells are counted character by
character: a joined emoji may count for more than a terminal gives it, never for less, so no row is too wide
however a style cuts it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from rich.cells import get_character_cell_size
from rich.style import Style

from dsv4_agent.tui.transcript.rows import Row, Span

TAB: Final = 4
_JOINER: Final = "\u200d"
_EMOJI_STYLE: Final = "\ufe0f"
_WORD: Final = re.compile(r"\S")


def expand(line: str) -> str:
    """`line` with its tabs as spaces."""
    return line.expandtabs(TAB) if "\t" in line else line


def cells(text: str) -> int:
    """An upper bound of the cells that `text` takes."""
    return len(text) if text.isascii() else sum(map(_cell, text))


def _cell(character: str) -> int:
    return 1 if character == _EMOJI_STYLE else get_character_cell_size(character)


def breaks(line: str, width: int, *, words: bool) -> Iterator[tuple[int, int]]:
    """Start and end of each row of `line`; spaces between an end and the next start are swallowed."""
    ascii_only, length, start = line.isascii(), len(line), 0
    while True:
        end = min(start + width, length) if ascii_only else _reach(line, start, width)
        if end >= length:
            yield start, length
            return
        if words:
            end = _word_end(line, start, end)
        yield start, end
        start = end
        if words:
            following = _WORD.search(line, end)
            if following is None:
                return
            start = following.start()


def _reach(line: str, start: int, width: int) -> int:
    """The end of the longest piece from `start` within `width` cells, at least one character."""
    room, end = width, start
    # Marks without width could make a row endless: bound its characters as well.
    last = min(len(line), start + 8 * width + 16)
    while end < last:
        room -= _cell(line[end])
        if room < 0:
            break
        end += 1
    if end >= len(line):
        return end
    whole = end
    while whole > start and (
        line[whole] in (_JOINER, _EMOJI_STYLE) or line[whole - 1] == _JOINER or _cell(line[whole]) == 0
    ):
        whole -= 1
    return max(whole if whole > start else end, start + 1)


def _word_end(line: str, start: int, end: int) -> int:
    """The end of the last whole word before `end`; `end` itself inside a word as long as the row."""
    space = end if line[end] == " " else line.rfind(" ", start, end)
    words = line[start:space].rstrip() if space >= 0 else ""
    return start + len(words) if words else end


def wrap(line: str, style: Style, width: int, *, words: bool = True) -> Iterator[Row]:
    """The rows of one line in one style."""
    previous = 0
    for start, end in breaks(line, width, words=words):
        yield Row(
            ((line[start:end], style),) if end > start else (), joint=line[previous:start] if start else "\n"
        )
        previous = end


def wrap_spans(spans: Sequence[Span], width: int, *, words: bool = True) -> Iterator[Row]:
    """The rows of one line in several styles."""
    if len(spans) == 1:
        yield from wrap(spans[0][0], spans[0][1], width, words=words)
        return
    line = "".join(text for text, _ in spans)
    index, offset, previous = 0, 0, 0
    for start, end in breaks(line, width, words=words):
        pieces: list[Span] = []
        while index < len(spans):
            text, style = spans[index]
            piece = text[max(start - offset, 0) : end - offset]
            if piece:
                pieces.append((piece, style))
            if offset + len(text) > end:
                break
            offset += len(text)
            index += 1
        yield Row(tuple(pieces), joint=line[previous:start] if start else "\n")
        previous = end


def cut(text: str, width: int) -> str:
    """`text` in at most `width` cells, an ellipsis in place of what does not fit."""
    if len(text) <= width and cells(text) <= width:
        return text
    if width <= 1:
        return "…"[:width]
    return text[: _reach(text, 0, width - 1)] + "…"
