"""Saves the draft while it is written, at most once a second."""

from __future__ import annotations

from collections.abc import Callable

from textual.timer import Timer
from textual.widget import Widget

from dsv4_agent.chat.drafts import SAVE_SECONDS, Draft, DraftStore


class DraftKeeper:
    """The last change is saved a second after the first one that was not; nothing runs while nobody types."""

    def __init__(self, owner: Widget, store: DraftStore | None, current: Callable[[], Draft]) -> None:
        self._owner = owner
        self._store = store
        self._current = current
        self._timer: Timer | None = None

    @property
    def warning(self) -> str | None:
        """Why the draft can't be kept."""
        return None if self._store is None else self._store.warning

    def load(self) -> Draft | None:
        """The draft that an earlier session left."""
        return None if self._store is None else self._store.load()

    def changed(self) -> None:
        """Save soon."""
        if self._store is not None and self._timer is None:
            self._timer = self._owner.set_timer(SAVE_SECONDS, self.flush)

    def flush(self) -> None:
        """Save now what is not saved yet."""
        if self._timer is None or self._store is None:
            return
        self._stop()
        self._store.save(self._current())

    def clear(self) -> None:
        """The draft was sent or thrown away."""
        self._stop()
        if self._store is not None:
            self._store.clear()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
