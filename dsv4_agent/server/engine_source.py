"""Turns sampled by the engine in this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from time import monotonic
from typing import TYPE_CHECKING, Final, TypeVar

from dsv4_agent.dsml.dialect import Encoder
from dsv4_agent.loop.preset import Preset
from dsv4_agent.server.jobs import Job
from dsv4_agent.server.limits import Limits
from dsv4_agent.server.scheduler import Scheduler
from dsv4_agent.server.turns import Ended, ServedModel, Turn, TurnEvent, TurnRequest

if TYPE_CHECKING:
    from dsv4_model.engine import Engine, Sequence

__all__ = ["EngineSource"]

_log = logging.getLogger(__name__)
_STORED: Final = 8
"""Conversations whose states are written when the server ends."""
_WRITING: Final = 10.0
"""Seconds that writing them may take."""
T = TypeVar("T")


class EngineSource:
    """A turn source over a loaded engine, which nobody else may use from now on.

    With `keeps` the states of the latest conversations go to the engine's store when the server ends.
    """

    def __init__(self, engine: Engine, preset: Preset, limits: Limits, *, keeps: bool = True) -> None:
        encoder = Encoder.CHECKPOINT if preset.name == "nano" else Encoder.API
        self._model = ServedModel(engine.name, engine.context_window, engine.tokenizer, preset, encoder)
        self._keeps = keeps and engine.options.store is not None
        self.scheduler = Scheduler(engine, limits)
        self.scheduler.start()

    @property
    def model(self) -> ServedModel:
        return self._model

    def start(self, request: TurnRequest) -> Turn:
        """Queue one turn; raises `ApiError` where the queue is full or the server ends."""
        job = Job(request, asyncio.get_running_loop())
        self.scheduler.submit(job)
        return _EngineTurn(job)

    def on_engine(self, work: Callable[[], T]) -> Future[T]:
        """Run something about the engine between two steps, where it doesn't change."""
        return self.scheduler.call(work)

    async def close(self, patience: float) -> None:
        """End within about `patience` seconds; states of idle conversations are stored after that."""
        last = self._store if self._keeps else None
        await asyncio.to_thread(self.scheduler.close, patience, last)

    def _store(self, idle: Iterable[Sequence]) -> None:
        deadline = monotonic() + _WRITING
        engine = self.scheduler.engine
        for sequence, _ in zip(idle, range(_STORED), strict=False):
            if monotonic() >= deadline:
                return
            engine.keep(sequence, cancelled=lambda: monotonic() >= deadline)


class _EngineTurn:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._over = False

    def __aiter__(self) -> _EngineTurn:
        return self

    async def __anext__(self) -> TurnEvent:
        if self._over:
            raise StopAsyncIteration
        event = await self._job.outbox.get()
        self._over = isinstance(event, Exception | Ended)
        if isinstance(event, Exception):
            raise event
        return event

    def cancel(self) -> None:
        self._job.cancelled.set()
