"""Blocking work off the event loop, with its child processes ended when the call is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class _Children:
    """The processes that one call is waiting for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def add(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._running.add(process)
            if self._stopped:
                process.terminate()

    def remove(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._running.discard(process)

    def stop(self) -> None:
        """End them all now and whatever is started later; SIGTERM lets git remove its lock files."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()


_CURRENT: ContextVar[_Children | None] = ContextVar("dsv4_tools_children", default=None)


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """`asyncio.to_thread` for a function that uses `supervised`: cancelling it ends those processes."""
    children = _Children()
    token = _CURRENT.set(children)
    try:
        return await asyncio.to_thread(function, *args, **kwargs)
    except asyncio.CancelledError:
        children.stop()
        raise
    finally:
        _CURRENT.reset(token)


@contextlib.contextmanager
def supervised(process: Any, seconds: float) -> Iterator[threading.Event]:
    """While inside, the process dies with the call or after `seconds`; the event says that time ran out.

    `process` is a Popen or what behaves like one.
    """
    late = threading.Event()

    def expire() -> None:
        late.set()
        process.kill()

    children = _CURRENT.get()
    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    if children is not None:
        children.add(process)
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()
        if children is not None:
            children.remove(process)
