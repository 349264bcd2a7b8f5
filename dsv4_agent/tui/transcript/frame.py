"""What a block needs to know of the screen to lay itself out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from dsv4_agent.tui.theme import Palette

MARGIN = 1
"""Cells left free at the right, so that text does not touch the scroll bar."""
GUTTER = 2
"""Cells at the left for a bar or a state glyph; all text lines up behind them."""
NARROWEST = 10
"""Narrower widgets are laid out at this width and cut."""
_PROSE = 116


class Detail(Enum):
    """How much of a tool's output is shown; the value is the limit in rows."""

    FOLDED = 6
    MORE = 40
    ALL = None

    @property
    def next(self) -> Detail:
        """The level that the next press of the key gives."""
        levels = list(Detail)
        return levels[(levels.index(self) + 1) % len(levels)]


@dataclass(frozen=True, slots=True)
class Frame:
    """The width in cells, the styles, and what is unfolded. `now` is the monotonic time in seconds."""

    width: int
    palette: Palette
    detail: Detail = Detail.FOLDED
    thinking: bool = False
    now: float = 0.0

    @property
    def inner(self) -> int:
        """Cells for text between gutter and margin."""
        return max(self.width, NARROWEST) - GUTTER - MARGIN

    @property
    def prose(self) -> int:
        """Cells for running text: on a very wide screen long lines are hard to read."""
        return min(self.inner, _PROSE)
