"""Trying again: which failures deserve it, after how long, and that the user sees each attempt."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from dsv4_agent.backends.base import BackendEvent, Retrying
from dsv4_agent.backends.http.errors import ServerError

_LONGEST_ASKED = 120.0  # seconds; a server that asks for more gets an error instead


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter. `limit` attempts after the first; times are in seconds."""

    limit: int
    first: float = 0.5
    longest: float = 30.0
    chance: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def delay(self, attempt: int, asked: float | None) -> float:
        """Seconds before attempt number `attempt` (1 is the first repetition); never less than asked for."""
        most = min(self.longest, self.first * 2.0 ** (attempt - 1))
        jittered = most * (0.1 + 0.9 * self.chance())
        return jittered if asked is None else asked + jittered * 0.1

    def allows(self, attempt: int, error: ServerError) -> bool:
        """Whether a failure is followed by attempt number `attempt`."""
        asked = error.retry_after
        patient = asked is None or (math.isfinite(asked) and asked <= _LONGEST_ASKED)
        return error.retryable and attempt <= self.limit and patient


async def retrying(
    policy: RetryPolicy,
    attempt: Callable[[], AsyncIterator[BackendEvent]],
    discards: Callable[[], bool] = lambda: False,
) -> AsyncGenerator[BackendEvent, None]:
    """The events of an attempt, and of further ones after failures that pass.

    `discards` says, after a failure, whether what was sampled so far counts no more. Raises the last
    attempt's `ServerError`. Closing the iterator ends a request or a pause at once.
    """
    number = 0
    while True:
        try:
            async with aclosing(_generator(attempt())) as events:
                async for event in events:
                    yield event
            return
        except ServerError as error:
            number += 1
            if not policy.allows(number, error):
                raise
            delay = policy.delay(number, error.retry_after)
            yield Retrying(number, policy.limit, error.reason, round(delay * 1000), discards())
        await policy.sleep(delay)


async def _generator(events: AsyncIterator[BackendEvent]) -> AsyncGenerator[BackendEvent, None]:
    try:
        async for event in events:
            yield event
    finally:
        if isinstance(events, AsyncGenerator):
            await events.aclose()
