"""A unified diff as rows: line numbers and signs in the gutter, the code in the colours of its language."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from rich.style import Style
from textual.strip import Strip

from dsv4_agent.tui.theme import Palette
from dsv4_agent.tui.transcript.frame import NARROWEST
from dsv4_agent.tui.transcript.highlight import highlighted
from dsv4_agent.tui.transcript.rows import Row, Span, strips
from dsv4_agent.tui.transcript.wrapping import expand, wrap_spans
from dsv4_agent.workbench.plain_text import plain

_HUNK: Final = re.compile(r"@@ -(\d{1,9})(?:,\d+)? \+(\d{1,9})(?:,\d+)? @@")
_NARROW: Final = 30


@dataclass(frozen=True, slots=True)
class _Line:
    """`sign` is " ", "+", "-", or "" for what is not code; `number` is in the new file ("-": the old)."""

    sign: str
    number: int
    code: str


def render_diff(diff: str, path: str, width: int, theme: Palette) -> list[Strip]:
    """The strips, `width` cells each, of a unified diff without file headers. Safe for any text."""
    return strips(diff_rows(diff, path, max(width, NARROWEST), theme), width)


def diff_rows(diff: str, path: str, width: int, palette: Palette) -> list[Row]:
    """The rows of a unified diff; `path` chooses the language."""
    lines = list(_parsed(diff))
    if not lines:
        return []
    code = _coloured(lines, path, palette)
    digits = len(str(max(line.number for line in lines)))
    numbered = width >= _NARROW
    rows: list[Row] = []
    for index, line in enumerate(lines):
        if not line.sign:
            rows += wrap_spans([(line.code, palette.muted)], width, words=False)
            continue
        rows += _line_rows(line, code[index], digits if numbered else 0, width, palette)
    return rows


def _parsed(diff: str) -> Iterator[_Line]:
    old = new = 0
    if not diff.strip("\n"):
        return
    for raw in plain(diff.rstrip("\n")).split("\n"):
        line = expand(raw[1:]) if raw[:1] in (" ", "+", "-") else expand(raw)
        match raw[:1]:
            case "+":
                yield _Line("+", new, line)
                new += 1
            case "-":
                yield _Line("-", old, line)
                old += 1
            case " ":
                yield _Line(" ", new, line)
                old, new = old + 1, new + 1
            case _:
                if hunk := _HUNK.match(raw):
                    old, new = int(hunk[1]), int(hunk[2])
                yield _Line("", 0, line)


def _coloured(lines: list[_Line], path: str, palette: Palette) -> list[list[Span]]:
    """The spans of each line: old and new text are coloured apart, since each is a whole on its own."""
    spans: list[list[Span]] = [[(line.code, palette.text)] for line in lines]
    for signs in (" -", " +"):
        chosen = [index for index, line in enumerate(lines) if line.sign and line.sign in signs]
        if not chosen:
            continue
        source = "\n".join(lines[index].code for index in chosen)
        for index, coloured in zip(chosen, highlighted(source, path, palette), strict=True):
            spans[index] = coloured
    return spans


def _line_rows(line: _Line, code: list[Span], digits: int, width: int, palette: Palette) -> Iterator[Row]:
    sign_style, fill = {
        "+": (palette.added, palette.added_line),
        "-": (palette.removed, palette.removed_line),
    }.get(line.sign, (palette.muted, Style()))
    number = f"{line.number:>{digits}} " if digits else ""
    first = ((number, palette.muted + fill), (f"{line.sign} ", sign_style + fill))
    rest = ((" " * (len(number) + 2), fill),)
    room = max(width - len(number) - 2, 1)
    for index, row in enumerate(wrap_spans(code, room, words=False)):
        spans = tuple((text, style + fill) for text, style in row.spans)
        yield Row(spans, tuple(span for span in (rest if index else first) if span[0]), row.joint, fill)
