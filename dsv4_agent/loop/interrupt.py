"""Ending work early: a person's stop, a deadline, or the cancellation of the task itself."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from time import monotonic
from typing import Any, TypeVar

from dsv4_agent.loop.events import Subtype

T = TypeVar("T")


class InterruptedRunError(Exception):
    """The run has to end now; `subtype` says as what."""

    def __init__(self, subtype: Subtype, message: str) -> None:
        super().__init__(message)
        self.subtype = subtype


class Interrupt:
    """A stop switch with an optional deadline (a `monotonic` time)."""

    def __init__(self) -> None:
        self._stopped = asyncio.Event()
        self.deadline: float | None = None

    def stop(self) -> None:
        """End what runs now; call it in the loop's thread (a signal handler of the loop is one)."""
        self._stopped.set()

    def reset(self) -> None:
        """Make ready for the next run."""
        self._stopped.clear()

    async def race(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work` unless it has to end first: then it is cancelled, awaited, and this raises.

        Raises `InterruptedRunError`. When this call is cancelled itself, the work is gone before it returns.
        """
        if (ending := self._ending()) is not None:
            work.close()
            raise ending
        task = asyncio.ensure_future(work)
        waiter = asyncio.ensure_future(self._stopped.wait())
        timeout = None if self.deadline is None else max(0.0, self.deadline - monotonic())
        try:
            await asyncio.wait({task, waiter}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
        finally:
            waiter.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        raise self._ending() or InterruptedRunError(Subtype.MAX_TIME, _OUT_OF_TIME)

    def _ending(self) -> InterruptedRunError | None:
        if self._stopped.is_set():
            return InterruptedRunError(Subtype.ABORTED, "interrupted")
        if self.deadline is not None and monotonic() >= self.deadline:
            return InterruptedRunError(Subtype.MAX_TIME, _OUT_OF_TIME)
        return None


_OUT_OF_TIME = "the time budget is spent (--max-time)"
