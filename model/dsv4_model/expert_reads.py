"""Reads of experts by a few threads: those that are waited for before those that were only announced."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

__all__ = ["ExpertRead", "ReadQueue"]


@dataclass(frozen=True, slots=True)
class ExpertRead:
    """One expert on its way into a slot; ``done`` ends with it."""

    slot: int
    layer: int
    expert: int
    done: Future[None]


class ReadQueue:
    """Calls ``perform`` for each read, in one of ``readers`` threads, and ends its ``done`` accordingly."""

    def __init__(self, readers: int, perform: Callable[[ExpertRead], None]) -> None:
        self._perform = perform
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="experts")
        self._lock = threading.Lock()
        self._urgent: deque[ExpertRead] = deque()
        self._announced: dict[int, ExpertRead] = {}  # by slot, oldest first

    def add(self, read: ExpertRead, *, urgent: bool) -> None:
        """Begin it as soon as a thread is free."""
        with self._lock:
            if urgent:
                self._urgent.append(read)
            else:
                self._announced[read.slot] = read
        self._pool.submit(self._next)

    def hurry(self, slot: int) -> None:
        """What was announced for ``slot`` is waited for now."""
        with self._lock:
            read = self._announced.pop(slot, None)
            if read is not None:
                self._urgent.append(read)

    def take_back(self) -> ExpertRead | None:
        """An announced read that hasn't begun, and now never will."""
        with self._lock:
            return self._announced.popitem()[1] if self._announced else None

    def close(self) -> None:
        """End the threads after their current read; the ``done`` of all others is cancelled."""
        with self._lock:
            rest = [*self._urgent, *self._announced.values()]
            self._urgent.clear()
            self._announced.clear()
        self._pool.shutdown(cancel_futures=True)
        for read in rest:
            read.done.cancel()
            read.done.set_running_or_notify_cancel()  # only this wakes those who wait

    def _next(self) -> None:
        with self._lock:
            if self._urgent:
                read = self._urgent.popleft()
            elif self._announced:
                read = self._announced.pop(next(iter(self._announced)))
            else:
                return  # it was taken back
        try:
            self._perform(read)
        except BaseException as error:
            read.done.set_exception(error)
        else:
            read.done.set_result(None)
