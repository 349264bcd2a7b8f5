"""Turns read out of a script: for pipelines, and for trying other agents against the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress

from dsv4_agent.backends.base import Finished, GenerationRequest, ModelError, SampledText
from dsv4_agent.backends.scripted import ScriptedBackend
from dsv4_agent.backends.turn_constraint import calls_opener
from dsv4_agent.dsml.dialect import END_THINK, THINK, Encoder, Thinking
from dsv4_agent.dsml.events import FinishReason
from dsv4_agent.dsml.segments import Segment
from dsv4_agent.loop.preset import Preset
from dsv4_agent.server.api_errors import ApiError
from dsv4_agent.server.refusals import closing
from dsv4_agent.server.turns import Begun, Codec, Ended, Sampled, ServedModel, TurnEvent, TurnRequest

__all__ = ["ScriptedSource"]


class ScriptedSource:
    """Plays a script, a turn a request, in the order in which the requests come."""

    def __init__(self, backend: ScriptedBackend, codec: Codec, preset: Preset) -> None:
        self._backend = backend
        self._closed = False
        self._over = asyncio.Event()
        self._running: set[_ScriptedTurn] = set()
        info = backend.info
        self._model = ServedModel(info.id, info.context_window, codec, preset, Encoder.API)

    @property
    def model(self) -> ServedModel:
        return self._model

    def start(self, request: TurnRequest) -> _ScriptedTurn:
        """Begin the script's next turn. Raises `ApiError` once the server ends."""
        if self._closed:
            raise closing()
        turn = _ScriptedTurn(self._events(request), self._over, self._leave)
        self._running.add(turn)
        return turn

    async def close(self, patience: float) -> None:
        """Refuse new turns; those that run, and pause for longer, are told that the server ends."""
        self._closed = True
        if not self._running:
            self._over.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._over.wait()
        self._over.set()

    def _leave(self, turn: _ScriptedTurn) -> None:
        self._running.discard(turn)
        if self._closed and not self._running:
            self._over.set()

    async def _events(self, request: TurnRequest) -> AsyncGenerator[TurnEvent, None]:
        codec = self._model.codec
        yield Begun(prefilled=len(request.prompt))
        opener = calls_opener(self._model.dialect)
        skipped = "" if not _ends_with(request.prompt, codec.encode(opener, True)) else opener
        asked = GenerationRequest(
            request.sampling.max_tokens,
            Thinking.THINKING if self._thinks(request.prompt) else Thinking.CHAT,
            self._model.dialect,
        )
        left = request.sampling.max_tokens
        try:
            async for event in self._backend.generate(_Nothing(), asked):
                match event:
                    case SampledText(text):
                        if skipped:  # the prompt has said it already, and nothing comes before it
                            _, found, text = text.partition(skipped)
                            skipped = "" if found else skipped
                        for token in codec.encode(text, True)[:left]:
                            left -= 1
                            yield Sampled(token)
                    case Finished(reason):
                        yield Ended(FinishReason.LENGTH if left <= 0 else reason)
        except ModelError as error:
            raise ApiError(500, str(error), kind="server_error", code="script_error") from None

    def _thinks(self, prompt: tuple[int, ...]) -> bool:
        codec = self._model.codec
        marks = (codec.id_of(THINK), codec.id_of(END_THINK))
        return next((token == marks[0] for token in reversed(prompt) if token in marks), False)


class _ScriptedTurn:
    def __init__(
        self,
        events: AsyncGenerator[TurnEvent, None],
        over: asyncio.Event,
        gone: Callable[[_ScriptedTurn], None],
    ) -> None:
        self._events, self._over, self._gone = events, over, gone

    def __aiter__(self) -> _ScriptedTurn:
        return self

    async def __anext__(self) -> TurnEvent:
        step = asyncio.create_task(_next(self._events))
        end = asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait([step, end], return_when=asyncio.FIRST_COMPLETED)
            if not step.done():
                raise closing()
            event = step.result()
        finally:
            step.cancel()
            end.cancel()
        if event is None:
            self._gone(self)
            raise StopAsyncIteration
        return event

    def cancel(self) -> None:
        """Nothing computes; the generator is closed by whoever collects it."""
        self._gone(self)


async def _next(events: AsyncGenerator[TurnEvent, None]) -> TurnEvent | None:
    """None at the end, for a future can't bring `StopAsyncIteration`'s relative."""
    return await anext(events, None)


class _Nothing:
    """The conversation that a script doesn't look at."""

    entries = ()

    def segments(self) -> Sequence[Segment]:
        return ()

    def tokens(self) -> Sequence[int]:
        return ()

    def messages(self) -> list[dict[str, object]]:
        return []

    def messages_by_entry(self) -> list[tuple[dict[str, object], ...]]:
        return []

    def last_results(self) -> tuple[str, ...]:
        return ()


def _ends_with(ids: tuple[int, ...], end: list[int]) -> bool:
    return list(ids[-len(end) :]) == end
