"""Foreign text as rows: sanitised, wrapped, and cut to a number of rows with a word on what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from rich.style import Style

from dsv4_agent.tui.transcript.rows import Row
from dsv4_agent.tui.transcript.wrapping import expand, wrap
from dsv4_agent.workbench.plain_text import plain

KEY: Final = "Ctrl+O"


def text_rows(text: str, style: Style, width: int, *, words: bool = True) -> Iterator[Row]:
    """All rows of `text`."""
    for line in plain(text).split("\n"):
        yield from wrap(expand(line), style, width, words=words)


def folded_rows(
    text: str, style: Style, note: Style, width: int, limit: int | None, *, words: bool = False
) -> list[Row]:
    """The first `limit` rows of `text` (None: all of them), and how many lines follow."""
    text = text.rstrip("\n")
    if limit is None:
        return list(text_rows(text, style, width, words=words))
    rows: list[Row] = []
    position = 0
    while position <= len(text):
        end = text.find("\n", position)
        end = len(text) if end < 0 else end
        # Never more of a line than its rows can show: a line of a megabyte is cheap. Escapes only lengthen.
        piece = text[position : min(end, position + 8 * width * (limit + 1))]
        new = list(islice(wrap(expand(plain(piece)), style, width, words=words), limit - len(rows) + 2))
        # A single row takes no more room than the words that it is missing.
        only_one = len(rows) + len(new) == limit + 1 and end == len(text)
        if len(rows) + len(new) > limit and not only_one:
            rows += new[: limit - len(rows)]
            hidden = text.count("\n", position) + 1
            return [*rows, more_row(hidden, note, width)]
        rows += new
        position = end + 1
    return rows


def more_row(hidden: int, note: Style, width: int) -> Row:
    """The line that says how many lines are folded away, and by which key they come."""
    words = f"… {hidden:,} more line{'' if hidden == 1 else 's'} ({KEY})"
    return next(wrap(words, note, width, words=False))


def estimate(text: str, width: int, limit: int | None = None) -> int:
    """About how many rows `text` takes; cheap, for blocks that are not on the screen."""
    if not text:
        return 0
    rows = text.count("\n") + 1 + len(text) // (2 * width)
    return rows if limit is None else min(rows, limit + 1)
