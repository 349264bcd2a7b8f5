"""Signals of a run: the first stops the turn and lets the result out, the second ends everything at once.

SIGINT gives 130, SIGTERM and SIGHUP 143. The handlers are Python's own (not the event loop's), so they also
work while a model is being loaded.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Final

from dsv4_agent.workbench.exit_codes import ExitCode
from dsv4_agent.workbench.processes import kill_descendants

_HANDLED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STUCK_AFTER: Final = 10  # seconds from a signal until a run that doesn't stop is ended


class Interrupted(BaseException):
    """Raised by the handler where nothing has asked to be told instead."""


class Interrupts:
    """Installed once per process, in the main thread."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._stop: Callable[[], object] | None = None

    def install(self) -> None:
        """Take over SIGINT, SIGTERM and SIGHUP; one ignored from the start, as under nohup, stays so."""
        for number in _HANDLED:
            if signal.getsignal(number) is not signal.SIG_IGN or number is signal.SIGTERM:
                signal.signal(number, self._handle)
        signal.signal(signal.SIGALRM, self._give_up)

    def on_signal(self, stop: Callable[[], object] | None) -> None:
        """From now on call `stop` (in the main thread) rather than raise; None: raise again."""
        self._stop = stop

    def settled(self) -> None:
        """The run has stopped as asked: what is left may take its time."""
        signal.alarm(0)

    def ended(self) -> None:
        """The exit code is decided: a signal that comes while the interpreter shuts down changes nothing."""
        signal.alarm(0)
        for number in _HANDLED:
            signal.signal(number, signal.SIG_IGN)

    @property
    def code(self) -> ExitCode:
        """The exit code for the signal received."""
        return ExitCode.SIGINT if self.received is signal.SIGINT else ExitCode.SIGTERM

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self._end_now()
        self.received = signal.Signals(number)
        signal.alarm(_STUCK_AFTER)
        if self._stop is None:
            raise Interrupted
        self._stop()

    def _give_up(self, number: int, frame: FrameType | None) -> None:
        self._end_now()

    def _end_now(self) -> None:
        kill_descendants(grace=0)
        os._exit(self.code)
