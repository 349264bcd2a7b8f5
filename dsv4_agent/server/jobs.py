"""One turn on its way through the scheduler: asked for on the event loop, computed on the engine's thread."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from dsv4_agent.server.turns import TokenOdds, TurnEvent, TurnRequest

if TYPE_CHECKING:
    from dsv4_model.batching import Member

__all__ = ["Job", "Outbox"]


@dataclass(slots=True, eq=False)
class Job:
    """A turn and what became of it so far.

    `outbox` and `loop` belong to the event loop that waits; `cancelled` may be set by anyone; all else is the
    engine's thread's. `fed` is the step at which its prompt last went on.
    """

    request: TurnRequest
    loop: asyncio.AbstractEventLoop
    outbox: asyncio.Queue[TurnEvent | Exception] = field(default_factory=asyncio.Queue)
    cancelled: threading.Event = field(default_factory=threading.Event)
    member: Member | None = None
    delivered: int = 0
    odds: list[TokenOdds] = field(default_factory=list)
    fed: int = 0
    position: int = 0
    asked: float = field(default_factory=monotonic)
    begun: float = 0.0


class Outbox:
    """What one step has for those who wait; sent with a single wake-up of each event loop."""

    def __init__(self) -> None:
        self._letters: dict[asyncio.AbstractEventLoop, list[tuple[Job, TurnEvent | Exception]]] = {}

    def put(self, job: Job, event: TurnEvent | Exception) -> None:
        """Add an event for whoever waits for `job`."""
        self._letters.setdefault(job.loop, []).append((job, event))

    def send(self) -> None:
        """Hand everything over; a loop that is gone takes its jobs with it."""
        letters, self._letters = self._letters, {}
        for loop, events in letters.items():
            try:
                loop.call_soon_threadsafe(_deliver, events)
            except RuntimeError:  # the loop is closed
                for job, _ in events:
                    job.cancelled.set()


def _deliver(events: list[tuple[Job, TurnEvent | Exception]]) -> None:
    for job, event in events:
        job.outbox.put_nowait(event)
