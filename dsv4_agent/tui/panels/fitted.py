"""A panel in whose room one child gives way, so that the others are always seen whole."""

from __future__ import annotations

from typing import ClassVar, Final

from textual.geometry import Size
from textual.widget import Widget

LOW: Final = 20
"""Rows below which a terminal is low: a panel then takes nearly all of it."""


class Fitted(Widget):
    """As high as what is in it, up to a share of the terminal; the child `GIVES` gets what others leave.

    Without a limit such a child keeps all its rows when its panel can't grow: what comes after it is cut off,
    and since the child thinks that it is seen whole, its last rows can't be scrolled to either.
    """

    SHARE: ClassVar[float] = 0.7
    """Of the terminal's rows; in a low terminal it is nearly all of them."""
    GIVES: ClassVar[str] = "Reading"
    """The child that can be scrolled."""
    MOST: ClassVar[int] = 24
    """Rows of it, however high the terminal is."""

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        # Not by `1fr` and `max-height`: an automatic parent measures without them, and `1fr` takes it all.
        giving = next(iter(self.query(self.GIVES)), None)
        if giving is None:  # laid out once more while it is taken away, its children first
            return 0
        others = [child for child in self.children if child is not giving and child.display]
        taken = sum(_rows_of(child, container, viewport, width) for child in others)
        room = self.room(viewport.height)
        limit = max(1, min(self.MOST, room - taken))
        giving.styles.max_height = limit
        return min(room, taken + min(limit, _rows_of(giving, container, viewport, width)))

    def room(self, rows: int) -> int:
        """The most rows for what is in the panel, in a terminal of `rows`."""
        most = rows - 2 if rows < LOW else int(rows * self.SHARE)  # a row of the transcript, and the status
        return max(1, most - self.gutter.height)


def _rows_of(child: Widget, container: Size, viewport: Size, width: int) -> int:
    content = child.get_content_height(container, viewport, max(1, width - child.gutter.width))
    return content + child.gutter.height + child.styles.margin.height
