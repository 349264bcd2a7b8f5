"""What all endpoints share: the source of turns, the limits, and what is remembered of finished turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dsv4_agent.server.api_errors import bad_request
from dsv4_agent.server.limits import Limits
from dsv4_agent.server.refusals import too_slow
from dsv4_agent.server.replay import TurnMemory
from dsv4_agent.server.turn_times import TurnClock, TurnTimes
from dsv4_agent.server.turns import Sampling, ServedModel, Turn, TurnEvent, TurnRequest, TurnSource

__all__ = ["Service"]

_SHARED: int = 64
"""Tokens: a beginning shorter than this is computed as fast as it is found."""


@dataclass(frozen=True, slots=True)
class Service:
    """One model, served. `watchers` are told the times of each turn when it is over."""

    source: TurnSource
    limits: Limits = field(default_factory=Limits)
    memory: TurnMemory = field(default_factory=TurnMemory)
    started: int = field(default_factory=lambda: int(time.time()))
    watchers: list[Callable[[TurnTimes], None]] = field(default_factory=list)

    @property
    def model(self) -> ServedModel:
        """Who answers."""
        return self.source.model

    def sampling(
        self,
        prompt: tuple[int, ...],
        *,
        max_tokens: int,
        temperature: float | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        top_k: int | None = None,
        seed: int | None = None,
        thinking_budget: int | None = None,
    ) -> Sampling:
        """The sampling of a turn: what was asked for within the limits, the model's own where nothing was.

        Raises `ApiError` for a prompt that leaves no room, or is empty.
        """
        window, preset = self.model.context_window, self.model.preset
        if not prompt:
            raise bad_request("The prompt is empty.", "prompt")
        if len(prompt) >= window:
            raise bad_request(
                f"The prompt has {len(prompt):,} tokens, and the context window is {window:,}. Shorten it.",
                "prompt",
                "context_length_exceeded",
            )
        return Sampling(
            max_tokens=min(max_tokens, self.limits.max_tokens, window - len(prompt)),
            temperature=preset.temperature if temperature is None else temperature,
            top_p=preset.top_p if top_p is None else top_p,
            min_p=min_p or 0.0,
            top_k=max(0, top_k or 0),
            seed=seed,
            thinking_budget=thinking_budget,
        )

    def marks(self, prompt: tuple[int, ...]) -> tuple[int, ...]:
        """Where other prompts are likely to part from this one: before the user first speaks."""
        user = self.model.codec.user_id
        opening = prompt.index(user) if user in prompt else 0
        return (opening,) if opening >= _SHARED else ()

    def start(self, request: TurnRequest) -> Turn:
        """A turn that is given up when it takes too long. Raises `ApiError` where there is no room."""
        deadline = asyncio.get_running_loop().time() + self.limits.seconds
        clock = TurnClock(self._tell)
        return _TimedTurn(self.source.start(request), deadline, self.limits.seconds, clock)

    def _tell(self, times: TurnTimes) -> None:
        for watcher in self.watchers:
            watcher(times)


class _TimedTurn:
    def __init__(self, turn: Turn, deadline: float, seconds: float, clock: TurnClock) -> None:
        self._turn, self._deadline, self._seconds = turn, deadline, seconds
        self._clock = clock

    def __aiter__(self) -> _TimedTurn:
        return self

    async def __anext__(self) -> TurnEvent:
        try:
            async with asyncio.timeout_at(self._deadline):
                event = await anext(self._turn)
        except TimeoutError:
            self.cancel()
            raise too_slow(self._seconds) from None
        self._clock.saw(event)
        return event

    def cancel(self) -> None:
        self._clock.over()
        self._turn.cancel()
