"""Further attempts: which, when, how many, and that they are seen."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from dsv4_agent.backends.base import BackendEvent, Retrying, SampledText
from dsv4_agent.backends.http.errors import ServerError
from dsv4_agent.backends.http.retries import RetryPolicy, retrying


class Slept:
    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def policy(limit: int, slept: Slept, chance: float = 1.0) -> RetryPolicy:
    return RetryPolicy(limit, first=1.0, longest=8.0, chance=lambda: chance, sleep=slept)


def failing(times: int, **error: object) -> tuple[list[int], object]:
    calls: list[int] = []

    async def attempt() -> AsyncIterator[BackendEvent]:
        calls.append(1)
        yield SampledText("a")
        if len(calls) <= times:
            raise ServerError("x", reason="server_503", **{"retryable": True, **error})  # type: ignore[arg-type]

    return calls, attempt


async def run(policy: RetryPolicy, attempt: object) -> list[BackendEvent]:
    return [event async for event in retrying(policy, attempt)]  # type: ignore[arg-type]


async def test_each_attempt_is_seen_and_waits_longer() -> None:
    slept = Slept()
    calls, attempt = failing(5)
    events = await run(policy(5, slept), attempt)
    assert len(calls) == 6
    assert slept.seconds == [1.0, 2.0, 4.0, 8.0, 8.0]
    retries = [event for event in events if isinstance(event, Retrying)]
    assert next((e.attempt, e.max, e.reason, e.delay_ms) for e in retries) == (1, 5, "server_503", 1000)


async def test_there_is_an_end() -> None:
    slept = Slept()
    calls, attempt = failing(99)
    with pytest.raises(ServerError):
        await run(policy(2, slept), attempt)
    assert len(calls) == 3


async def test_what_does_not_pass_is_not_repeated() -> None:
    calls, attempt = failing(99, retryable=False)
    with pytest.raises(ServerError):
        await run(policy(5, Slept()), attempt)
    assert len(calls) == 1


@pytest.mark.parametrize(("asked", "attempts"), [(7.0, 2), (3600.0, 1), (float("inf"), 1), (float("nan"), 1)])
async def test_a_server_may_ask_for_time_but_not_for_any(asked: float, attempts: int) -> None:
    slept = Slept()
    calls, attempt = failing(99, retry_after=asked)
    with pytest.raises(ServerError):
        await run(policy(1, slept), attempt)
    assert len(calls) == attempts
    assert all(seconds >= asked for seconds in slept.seconds)


def test_jitter_spreads_and_never_vanishes() -> None:
    slept = Slept()
    assert policy(1, slept, 0.0).delay(3, None) == pytest.approx(0.4)
    assert policy(1, slept, 1.0).delay(3, None) == pytest.approx(4.0)
