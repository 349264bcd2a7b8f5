"""The engine's thread, driven by hand: fairness in steps, room, cancellation, errors of one alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from dsv4_agent.dsml.events import FinishReason
from dsv4_agent.server.api_errors import ApiError
from dsv4_agent.server.jobs import Job
from dsv4_agent.server.limits import Limits
from dsv4_agent.server.scheduler import Scheduler
from dsv4_agent.server.turns import Begun, Ended, Sampled, Sampling, TurnEvent, TurnRequest
from dsv4_model import batching
from dsv4_model.engine import CacheMemoryError
from tests.model import tiny


@dataclass
class Bench:
    """A scheduler whose rounds are made one by one, and what each of its jobs got at which round."""

    scheduler: Scheduler
    got: dict[int, list[tuple[int, TurnEvent | Exception]]] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    round: int = 0

    def ask(self, prompt: list[int], count: int = 4, client: str = "", **more: Any) -> Job:
        request = TurnRequest(tuple(prompt), Sampling(count, temperature=0.0), client=client, **more)
        job = Job(request, asyncio.get_running_loop())
        self.scheduler.submit(job)
        self.jobs.append(job)
        return job

    async def rounds(self, count: int = 1) -> None:
        for _ in range(count):
            self.scheduler.advance()
            self.round += 1
            await self.collect()

    async def collect(self) -> None:
        await asyncio.sleep(0)
        for job in self.jobs:
            while not job.outbox.empty():
                self.got.setdefault(id(job), []).append((self.round, job.outbox.get_nowait()))

    async def finish(self) -> None:
        while self.scheduler.running or self.scheduler.waiting:
            await self.rounds()

    def events(self, job: Job) -> list[TurnEvent | Exception]:
        return [event for _, event in self.got.get(id(job), [])]

    def ids(self, job: Job) -> list[int]:
        return [event.id for event in self.events(job) if isinstance(event, Sampled)]

    def first_token(self, job: Job) -> int:
        return next(number for number, event in self.got[id(job)] if isinstance(event, Sampled))

    def end(self, job: Job) -> TurnEvent | Exception:
        return self.events(job)[-1]


def bench_of(**limits: Any) -> Bench:
    return Bench(Scheduler(tiny.engine(), Limits(**limits)))


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    yield bench_of()


def prompt(length: int, seed: int) -> list[int]:
    return [7 + (seed * 31 + n * n * 17 + n * 5) % 256 for n in range(length)]


def alone(tokens: list[int], count: int = 4) -> list[int]:
    from dsv4_model.sampling import SamplingParams

    sequence = tiny.engine().sequence()
    sequence.sync(tokens)
    return list(sequence.generate(SamplingParams(temperature=0, max_tokens=count, stop_ids=())))


async def test_a_turn_begins_samples_and_ends(bench: Bench) -> None:
    job = bench.ask(prompt(20, 1))
    await bench.finish()
    begun, *sampled, ended = bench.events(job)
    assert begun == Begun(0, 20, None, None, 0)
    assert bench.ids(job) == alone(prompt(20, 1)) and len(sampled) == 4
    assert isinstance(ended, Ended) and ended.reason is FinishReason.LENGTH and ended.kv_bytes["window"]


async def test_a_short_prompt_waits_two_steps_behind_any_number_of_long_ones(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "PROMPT_TOKENS", 16)
    long = [bench.ask(prompt(400, seed)) for seed in range(4)]
    await bench.rounds(3)
    short = bench.ask(prompt(10, 9))
    asked = bench.round
    await bench.finish()
    # One round in which a long prompt is fed, one in which the short one is, one in which it samples.
    assert bench.first_token(short) <= asked + 3
    assert all(bench.first_token(job) > bench.first_token(short) for job in long)


async def test_short_prompts_leave_a_long_one_every_second_step(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "PROMPT_TOKENS", 16)
    long = bench.ask(prompt(160, 0), 1)
    alone_takes = 160 // 16 + 1
    for number in range(4 * alone_takes):
        if bench.scheduler.running or number == 0:
            bench.ask(prompt(16, number + 1), 1)
        await bench.rounds()
    assert bench.first_token(long) <= 2 * alone_takes + 2


async def test_clients_are_admitted_in_turn() -> None:
    bench = bench_of(sequences=1)
    greedy = [bench.ask(prompt(8, n), 1, client="a") for n in range(5)]
    modest = bench.ask(prompt(8, 9), 1, client="b")
    await bench.finish()
    first = [bench.first_token(job) for job in greedy]
    assert first == sorted(first)
    assert first[0] < bench.first_token(modest) < first[1]


async def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    bench = bench_of(sequences=1, queue=2)
    bench.ask(prompt(8, 1))
    await bench.rounds()
    bench.ask(prompt(8, 2))
    bench.ask(prompt(8, 3))
    with pytest.raises(ApiError) as refused:
        bench.ask(prompt(8, 4))
    assert refused.value.status == 429 and refused.value.retry_after
    await bench.finish()
    assert [type(bench.end(job)) for job in bench.jobs] == [Ended] * 3
    assert bench.scheduler.counts.refused == 1


async def test_a_cancelled_turn_leaves_within_a_step(bench: Bench) -> None:
    leaving, staying = bench.ask(prompt(30, 1), 200), bench.ask(prompt(30, 2), 12)
    await bench.rounds(3)
    leaving.cancelled.set()
    await bench.rounds()
    assert bench.scheduler.running == 1
    assert isinstance(end := bench.end(leaving), Ended) and end.reason is FinishReason.INTERRUPTED
    await bench.finish()
    assert bench.ids(staying) == alone(prompt(30, 2), 12)
    assert bench.scheduler.counts.cancelled == 1


async def test_what_is_cancelled_while_it_waits_is_never_computed() -> None:
    bench = bench_of(sequences=1)
    bench.ask(prompt(8, 1))
    await bench.rounds()
    waiting = bench.ask(prompt(8, 2))
    waiting.cancelled.set()
    await bench.finish()
    assert bench.events(waiting) == [] and bench.scheduler.counts.admitted == 1


async def test_who_gives_up_waiting_leaves_the_place_to_others() -> None:
    bench = bench_of(sequences=1, queue=2)
    bench.ask(prompt(8, 1), 200)
    await bench.rounds()
    for client in ("a", "b"):
        bench.ask(prompt(8, 2), client=client).cancelled.set()
    await bench.rounds()
    assert (bench.scheduler.waiting, bench.scheduler.counts.cancelled) == (0, 2)
    served = bench.ask(prompt(8, 3), client="c")
    await bench.finish()
    assert isinstance(bench.end(served), Ended)


async def test_a_prompt_goes_on_from_what_another_left(bench: Bench) -> None:
    first = bench.ask(prompt(100, 1), 6)
    await bench.finish()
    said = [*prompt(100, 1), *bench.ids(first)]
    onward = bench.ask([*said, *prompt(10, 2)], 3)
    await bench.finish()
    assert bench.events(onward)[0] == Begun(106, 10, None, None, 0)
    assert bench.ids(onward) == alone([*said, *prompt(10, 2)], 3)


async def test_prompts_part_at_a_mark(bench: Bench) -> None:
    shared = prompt(90, 1)
    bench.ask([*shared, *prompt(20, 2)], 2, marks=(90,))
    await bench.finish()
    other = bench.ask([*shared, *prompt(20, 3)], 2, marks=(90,))
    running = bench.ask([*shared, *prompt(25, 4)], 2, marks=(90,))
    await bench.finish()
    for job in (other, running):
        begun = bench.events(job)[0]
        assert isinstance(begun, Begun)
        assert (begun.reused, begun.restored, begun.restored_from) == (90, 90, "fork at 90")
    assert bench.ids(other) == alone([*shared, *prompt(20, 3)], 2)


async def test_an_answer_asked_twice_at_once_is_read_from_one_prompt(bench: Bench) -> None:
    jobs = [bench.ask(prompt(50, 1)) for _ in range(3)]
    await bench.finish()
    again = bench.ask(prompt(50, 1))
    await bench.finish()
    begun = bench.events(again)[0]
    assert isinstance(begun, Begun) and begun.reused == 50
    assert {tuple(bench.ids(job)) for job in (*jobs, again)} == {tuple(alone(prompt(50, 1)))}


async def test_idle_states_stay_within_their_bytes() -> None:
    limit = 3 << 20
    bench = bench_of(idle_bytes=limit)
    sizes = []
    for number in range(30):
        bench.ask(prompt(60, number), 1)
        await bench.finish()
        sizes.append(bench.scheduler.holdings().nbytes)
    assert max(sizes) <= limit
    assert max(sizes[15:]) <= max(sizes[:15])
    assert 1 <= len(bench.scheduler.timelines()) < 30


async def test_no_memory_ends_the_latest_turn_and_spares_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = bench.ask(prompt(30, 1), 8)
    await bench.rounds(2)
    late = bench.ask(prompt(30, 2), 8)
    await bench.rounds(2)
    scheduler = bench.scheduler
    forward = scheduler.engine.forward

    def short(pieces: Any) -> Any:
        if len(pieces) > 1:
            raise CacheMemoryError(1 << 20)
        return forward(pieces)

    monkeypatch.setattr(scheduler.engine, "forward", short)
    await bench.finish()
    refused = bench.end(late)
    assert isinstance(refused, ApiError) and refused.status == 503
    assert refused.code == "kv_cache_out_of_memory"
    assert bench.ids(early) == alone(prompt(30, 1), 8)
    assert isinstance(bench.end(early), Ended)


async def test_idle_states_make_room_before_anyone_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.ask(prompt(60, 1), 1)
    await bench.finish()
    scheduler, forward = bench.scheduler, bench.scheduler.engine.forward

    def short(pieces: Any) -> Any:
        if len(scheduler.timelines()) > 1:
            raise CacheMemoryError(1 << 20)
        return forward(pieces)

    monkeypatch.setattr(scheduler.engine, "forward", short)
    job = bench.ask(prompt(60, 2), 3)
    await bench.finish()
    assert bench.ids(job) == alone(prompt(60, 2), 3)


async def test_a_broken_constraint_ends_its_own_turn_alone(bench: Bench) -> None:
    class Broken:
        def allowed(self) -> list[int]:
            raise RuntimeError("secret text of a request")

        def accept(self, token_id: int) -> None: ...

    broken, sound = bench.ask(prompt(20, 1), constraint=Broken()), bench.ask(prompt(20, 2))
    await bench.finish()
    error = bench.end(broken)
    assert isinstance(error, ApiError) and error.status == 500 and "secret" not in str(error)
    assert bench.ids(sound) == alone(prompt(20, 2))


async def test_a_pass_that_fails_is_told_and_the_next_requests_are_served(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.ask(prompt(20, 1))

    def failing(pieces: Any) -> Any:
        raise OSError("/home/someone/weights.safetensors")

    with monkeypatch.context() as patch:
        patch.setattr(bench.scheduler.engine, "forward", failing)
        await bench.finish()
    error = bench.end(job)
    assert isinstance(error, ApiError) and error.status == 500 and "/home" not in str(error)
    again = bench.ask(prompt(20, 1))
    await bench.finish()
    assert bench.ids(again) == alone(prompt(20, 1))


async def test_closing_lets_the_running_end_and_refuses_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_of(sequences=1)
    step = bench.scheduler.advance

    def advance() -> None:
        # Else the running one may have ended before `close` is called, and the waiting one has its place.
        while not bench.scheduler._closing:
            time.sleep(0.001)
        step()

    running = bench.ask(prompt(20, 1), 10)
    await bench.rounds()
    waiting = bench.ask(prompt(20, 2))
    kept: list[int] = []
    monkeypatch.setattr(bench.scheduler, "advance", advance)
    bench.scheduler.start()
    await asyncio.to_thread(
        bench.scheduler.close, 60.0, lambda idle: kept.extend(len(s.tokens) for s in idle)
    )
    await bench.collect()
    assert bench.ids(running) == alone(prompt(20, 1), 10)
    refused = bench.end(waiting)
    assert isinstance(refused, ApiError) and refused.status == 503
    assert kept == [30]
    with pytest.raises(ApiError, match="shutting down"):
        bench.ask(prompt(20, 3))


async def test_closing_without_patience_cancels_and_says_so() -> None:
    bench = bench_of()
    running = bench.ask(prompt(20, 1), 500)
    await bench.rounds(3)
    bench.scheduler.start()
    await asyncio.to_thread(bench.scheduler.close, 0.0)
    await bench.collect()
    assert isinstance(end := bench.end(running), ApiError) and end.code == "shutting_down"
