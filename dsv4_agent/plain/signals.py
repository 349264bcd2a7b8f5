"""Signals of a plain chat."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dsv4_agent.workbench.processes import kill_descendants

_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Ending:
    """Which signal ended the chat, if one did."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    @property
    def code(self) -> int:
        """The exit code: 0, or 128 and the signal's number."""
        return 0 if self.received is None else 128 + self.received


@contextmanager
def handled_signals(
    interrupt: Callable[[], None], leave: Callable[[], None], restore: Callable[[], None]
) -> Iterator[Ending]:
    """SIGINT interrupts; SIGTERM and SIGHUP leave, the second of them at once. Ignored ones stay ignored."""
    loop = asyncio.get_running_loop()
    ending = Ending()

    def end(number: signal.Signals) -> None:
        if ending.received is not None:
            restore()
            kill_descendants(grace=0)
            os._exit(128 + number)
        ending.received = number
        leave()

    taken: list[signal.Signals] = []
    try:
        for number in (signal.SIGINT, *_ENDING):
            if signal.getsignal(number) is signal.SIG_IGN and number is not signal.SIGTERM:
                continue
            if number is signal.SIGINT:
                loop.add_signal_handler(number, interrupt)
            else:
                loop.add_signal_handler(number, end, number)
            taken.append(number)
        yield ending
    finally:
        for number in taken:
            loop.remove_signal_handler(number)
