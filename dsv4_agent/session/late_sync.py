"""Waiting for the disk where nobody has to wait: a moment later, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Final

DELAY: Final = 0.05
"""Seconds. Where something waits for the disk within that time, what was written before is safe as well."""


class LateSync:
    """Calls `sync` once for all that was asked for in the last moment. `sync` must not raise."""

    def __init__(self, sync: Callable[[], None], delay: float = DELAY) -> None:
        self._sync = sync
        self._delay = delay
        self._changed = threading.Condition()
        self._due: float | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def ask(self) -> None:
        """From now on at most the delay passes until `sync` is called."""
        with self._changed:
            if self._due is not None or self._closed:
                return
            self._due = monotonic() + self._delay
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="dsv4-journal", daemon=True)
                self._thread.start()
            self._changed.notify()

    def done(self) -> None:
        """Somebody has waited for the disk just now."""
        with self._changed:
            self._due = None

    def close(self) -> None:
        """Do what is due, and end; safe to call twice."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while self._wait():
            self._sync()

    def _wait(self) -> bool:
        """Wait until something is due; False at the end."""
        with self._changed:
            while True:
                if self._due is None and self._closed:
                    return False
                left = None if self._due is None else self._due - monotonic()
                if left is not None and (left <= 0 or self._closed):
                    self._due = None
                    return True
                self._changed.wait(left)
