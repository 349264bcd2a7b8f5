"""NO_COLOR: no colour at all, where Textual would draw in shades of grey, which are colours too."""

from __future__ import annotations

from typing import Final

from rich.color import Color as RichColor
from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.filter import LineFilter

_REVERSE: Final = Style(reverse=True)
_STANDS_OUT: Final = 0.35
"""Difference of brightness from which a background means something: a cursor, a selection."""


class Colourless(LineFilter):
    """Keeps bold, dim, italic and underline; a background that stands out becomes reverse video."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The same text without colours."""
        return [
            Segment(text, None if style is None else _colourless(style, background), control)
            for text, style, control in segments
        ]


def _colourless(style: Style, background: Color) -> Style:
    plain = style.without_color
    return plain + _REVERSE if _stands_out(style.bgcolor, background) else plain


def _stands_out(color: RichColor | None, background: Color) -> bool:
    if color is None or color.is_default:
        return False
    return abs(Color.from_rich_color(color).brightness - background.brightness) > _STANDS_OUT
