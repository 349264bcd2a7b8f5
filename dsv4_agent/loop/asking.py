"""One question to the model: sample a turn, show it, and make it part of the transcript however it ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from dsv4_agent.backends.base import Backend, BackendEvent, GenerationRequest, ModelError
from dsv4_agent.dsml.dialect import Thinking
from dsv4_agent.loop.context import ContextMeter
from dsv4_agent.loop.events import Event
from dsv4_agent.loop.interrupt import Interrupt, InterruptedRunError
from dsv4_agent.loop.preset import Preset
from dsv4_agent.loop.sampling import TurnSampler
from dsv4_agent.loop.toolbox import Toolbox
from dsv4_agent.session.session import Session


@dataclass(frozen=True, slots=True)
class Asking:
    """Asks one backend about one session."""

    session: Session
    backend: Backend
    toolbox: Toolbox
    meter: ContextMeter
    interrupt: Interrupt
    new_id: Callable[[], str]
    seed: int | None = None
    answer_schema: Mapping[str, object] | None = None

    def sampler(self, preset: Preset) -> TurnSampler:
        """For the next turn."""
        return TurnSampler(
            self.session.transcript.turn + 1,
            self.toolbox.schemas,
            thinking=preset.thinking is Thinking.THINKING,
            vocabulary=self.backend.vocabulary,
            new_id=self.new_id,
            dialect=preset.dialect,
        )

    async def ask(self, sampler: TurnSampler, preset: Preset, room: int) -> AsyncGenerator[Event, None]:
        """Sample at most `room` tokens into `sampler` and append them.

        Raises `ModelError`, `InterruptedRunError` and `JournalError`.
        """
        try:
            async with aclosing(self._sample(sampler, preset, room)) as events:
                async for event in events:
                    yield event
        except InterruptedRunError:
            for event in self._keep(sampler):
                yield event
            raise
        except BaseException:
            self._keep(sampler)
            raise
        for event in self._keep(sampler):
            yield event

    async def _sample(self, sampler: TurnSampler, preset: Preset, room: int) -> AsyncGenerator[Event, None]:
        request = GenerationRequest(
            max_tokens=room,
            thinking=preset.thinking,
            dialect=preset.dialect,
            tools=self.toolbox.functions,
            temperature=preset.temperature,
            top_p=preset.top_p,
            min_p=preset.min_p,
            seed=self.seed,
            thinking_budget=preset.thinking_budget,
            effort=preset.effort,
            grammar=preset.grammar,
            answer_schema=self.answer_schema,
        )
        stream = self.backend.generate(self.session.transcript, request)
        async with _closed_after(stream):
            while (event := await self.interrupt.race(_next(stream))) is not None:
                for shown in sampler.feed(event):
                    yield shown
                if sampler.synced is event and (broken := self.meter.broken(sampler)):
                    yield broken
        if not sampler.finished:
            raise ModelError("the model's answer broke off without an end: run the task again")

    def _keep(self, sampler: TurnSampler) -> list[Event]:
        closing = sampler.finish()
        entry = sampler.entry()
        if entry.segments:
            # With calls, the first of them that changes anything or their results wait for the disk.
            self.session.append(entry, sync=not sampler.message.calls)
        return closing


async def _next(stream: AsyncIterator[BackendEvent]) -> BackendEvent | None:
    return await anext(stream, None)


@asynccontextmanager
async def _closed_after(stream: AsyncIterator[BackendEvent]) -> AsyncIterator[None]:
    """Close a generator in the task that used it, so that a cancelled generation ends here and now."""
    try:
        yield
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()
