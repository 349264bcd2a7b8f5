"""When to draw: at once, but at most 30 times a second; and every second while a duration counts on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from textual.timer import Timer
from textual.widget import Widget

_PERIOD: Final = 1 / 30
_TICK: Final = 1.0


class Pace:
    """Calls `draw` when asked to, and `tick` every second while kept ticking; both on the widget's loop."""

    def __init__(self, widget: Widget, draw: Callable[[], None], tick: Callable[[], None]) -> None:
        self._widget = widget
        self._draw = draw
        self._tick = tick
        self._drawn = float("-inf")
        self._waiting: Timer | None = None
        self._ticking: Timer | None = None

    def ask(self) -> None:
        """Draw now or, when that was done a moment ago, in a moment; several requests are one drawing."""
        if self._waiting is not None:
            return
        wait = self._drawn + _PERIOD - time.monotonic()
        if wait > 0:
            self._waiting = self._widget.set_timer(wait, self._now)
        else:
            self._now()

    def keep_ticking(self, on: bool) -> None:
        """Start or stop the ticks."""
        if on and self._ticking is None:
            self._ticking = self._widget.set_interval(_TICK, self._tick)
        elif not on and self._ticking is not None:
            self._ticking.stop()
            self._ticking = None

    def _now(self) -> None:
        self._waiting = None
        self._drawn = time.monotonic()
        self._draw()
