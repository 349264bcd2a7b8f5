"""Keys that were typed before a question was seen, or as part of a text, must not answer it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from textual import events

QUIET: Final = 0.4
"""Seconds without a key after which a person has seen the question."""


class Arming:
    """Deaf until the keyboard has been quiet for a moment after `begin`; every key begins it anew."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None
        self._armed = False

    def begin(self) -> None:
        """The question has been painted: from now on it can be seen."""
        self._since = self._clock()

    def hears(self) -> bool:
        """Whether a key that comes now counts."""
        if not self._armed and self._since is not None:
            now = self._clock()
            self._armed = now - self._since >= QUIET
            self._since = now
        return self._armed

    def take(self, event: events.Key, known: Callable[[str], object]) -> None:
        """Drop a key that does not count. One that is no answer makes deaf again: a person is writing a text.

        Its further letters, and the Enter at its end, would otherwise be taken for answers.
        """
        if not self.hears():
            event.stop()
            event.prevent_default()
        elif event.is_printable and not known(event.key):
            self._armed = False
