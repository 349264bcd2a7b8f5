"""The engine's thread: admits turns fairly, drives the passes of all of them, and keeps what may be reused.

Everything about the engine happens on this one thread; the event loop hands over jobs and reads their
outboxes. A pass serves all admitted turns, so a turn that ends or is cancelled leaves within one step.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar

from torch import Tensor

from dsv4_agent.dsml.events import FinishReason
from dsv4_agent.server.engine_failures import out_of_memory, told
from dsv4_agent.server.fair_queue import FairQueue
from dsv4_agent.server.jobs import Job, Outbox
from dsv4_agent.server.kv_holdings import Holdings, holdings
from dsv4_agent.server.limits import Limits
from dsv4_agent.server.mistakes import kind_and_place
from dsv4_agent.server.odds import odds_of
from dsv4_agent.server.prompt_order import prompt_order
from dsv4_agent.server.refusals import busy, closing
from dsv4_agent.server.timelines import Timelines
from dsv4_agent.server.turns import Begun, Ended, Sampled, TurnRequest
from dsv4_model.batching import Batch, Member
from dsv4_model.boundaries import BOUNDARY_EVERY
from dsv4_model.engine import CacheMemoryError, Engine, Sequence, StopReason
from dsv4_model.sampling import SamplingParams

__all__ = ["Counts", "Scheduler"]

_log = logging.getLogger(__name__)
_USUAL_SECONDS = 5.0
T = TypeVar("T")

_REASONS = {
    StopReason.STOP: FinishReason.STOP,
    StopReason.LENGTH: FinishReason.LENGTH,
    StopReason.CONTEXT: FinishReason.LENGTH,
    StopReason.CANCELLED: FinishReason.INTERRUPTED,
}


@dataclass(slots=True)
class Counts:
    """What the scheduler has done since it began; read it from any thread."""

    admitted: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    refused: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    sampled_tokens: int = 0


class Scheduler:
    """Owns an engine and the thread that drives it, from `start` to `close`."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self.engine = engine
        self.limits = limits
        self.counts = Counts()
        self._batch = Batch(engine, limit=limits.sequences)
        self._jobs: dict[Member, Job] = {}
        self._timelines = Timelines.over(engine, limits.idle_bytes)
        self._outbox = Outbox()
        self._seconds = _USUAL_SECONDS
        self._wake = threading.Condition()
        self._queue: FairQueue[Job] = FairQueue()
        self._errands: deque[Callable[[], None]] = deque()
        self._closing = False
        self._deadline = math.inf
        self._last_act: Callable[[Iterable[Sequence]], None] | None = None
        self._thread = threading.Thread(target=self._run, name="dsv4-engine", daemon=True)

    def start(self) -> None:
        """Begin to work on what is submitted."""
        self._thread.start()

    # -- from any thread -----------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Turns that have no place yet."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Turns that are being computed."""
        return len(self._jobs)

    def submit(self, job: Job) -> None:
        """Queue a turn. Raises `ApiError`: 429 where too many wait, 503 while the server ends."""
        with self._wake:
            if self._closing:
                raise closing()
            if len(self._queue) >= self.limits.queue:
                self.counts.refused += 1
                raise busy(self._expected_wait())
            self._queue.put(job.request.client, job)
            self._wake.notify()

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Run something about the engine on its thread, between two steps."""
        future: Future[T] = Future()

        def errand() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        with self._wake:
            self._errands.append(errand)
            self._wake.notify()
        return future

    def close(self, patience: float, last: Callable[[Iterable[Sequence]], None] | None = None) -> None:
        """Refuse new turns, let the running ones end within `patience` seconds, and end the thread; blocks.

        Those that don't end are told 503. Another call, from another thread, can only shorten the time.

        `last` gets the idle timelines, most recently used first, before they are let go.
        """
        with self._wake:
            self._closing = True
            self._deadline = min(self._deadline, monotonic() + patience)
            self._last_act = last
            self._wake.notify()
        self._thread.join()

    def timelines(self) -> list[tuple[Sequence, bool]]:
        """All timelines and whether each is running; for errands on the engine's thread."""
        running = [(member.sequence, True) for member in self._batch.members]
        return [*running, *((sequence, False) for sequence in self._timelines)]

    def holdings(self) -> Holdings:
        """Bytes of all KV states by kind; for errands on the engine's thread."""
        return holdings(sequence for sequence, _ in self.timelines())

    # -- the engine's thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._wait():
            self.advance()
        self._end()

    def advance(self) -> None:
        """One round: errands, admission, one pass, delivery. For the engine's thread."""
        while self._errands:
            self._errands.popleft()()
        self._admit()
        self._step()
        self._outbox.send()

    def _wait(self) -> bool:
        """Sleep until there is something to do; false when the thread is to end."""
        with self._wake:
            while not (self._queue or self._errands or self._jobs or self._closing):
                self._wake.wait()
            if self._closing:
                for job in self._queue.drain():
                    self._outbox.put(job, closing())
                if monotonic() >= self._deadline:
                    for job in self._jobs.values():
                        job.cancelled.set()
        return bool(self._jobs or self._errands or not self._closing)

    def _admit(self) -> None:
        with self._wake:  # who gave up waiting leaves a place for others, even while none of the running ends
            self.counts.cancelled += self._queue.drop(lambda job: job.cancelled.is_set())
        while len(self._jobs) < self.limits.sequences:
            with self._wake:
                if not self._queue:
                    return
                job = self._queue.take()
            if job.cancelled.is_set():
                self.counts.cancelled += 1
                continue
            self._begin(job)

    def _begin(self, job: Job) -> None:
        request = job.request
        try:
            member = self._join(job, request)
        except CacheMemoryError as error:
            self._fail(job, out_of_memory(error))
            return
        except Exception as error:
            self._fail(job, told(error))
            return
        job.member, job.begun, job.fed = member, monotonic(), self.counts.steps
        job.position = member.sequence.position
        if request.logprobs is not None:
            member.generation.watch = self._watch(job, request.logprobs)
        self._jobs[member] = job
        report = member.report
        self.counts.admitted += 1
        self.counts.prompt_tokens += len(request.prompt)
        self.counts.reused_tokens += report.reused
        begun = Begun(report.reused, report.prefilled, report.restored_from, report.cause, report.restored)
        self._outbox.put(job, begun)

    def _watch(self, job: Job, top: int) -> Callable[[Tensor, int], None]:
        size = self.engine.tokenizer.size
        return lambda logits, token: job.odds.append(odds_of(logits, token, top, size))

    def _join(self, job: Job, request: TurnRequest) -> Member:
        """A place in the batch; idle timelines make room where memory is short. Raises as `Batch.add`."""
        tokens = list(request.prompt)
        long = range(BOUNDARY_EVERY, len(tokens), BOUNDARY_EVERY)
        while True:
            sequence = None
            try:
                sequence = self._timelines.open(tokens)
                return self._batch.add(
                    sequence,
                    tokens,
                    _params(request),
                    constraint=request.constraint,
                    cancelled=job.cancelled.is_set,
                    marks=(*request.marks, *long, len(tokens)),
                )
            except CacheMemoryError:
                if not self._timelines.release():
                    raise
            except Exception:
                if sequence is not None and sequence.tokens:
                    self._timelines.keep(sequence)
                raise

    def _step(self) -> None:
        if not self._batch.members:
            return
        self._arrange()
        try:
            self._batch.step()
        except CacheMemoryError as error:
            self._make_room(error)
        except Exception as error:  # a pass that can't be made concerns all that were in it
            _log.error("a pass failed: %s", kind_and_place(error))
            for job in tuple(self._jobs.values()):
                self._drop(job, told(error))
        self.counts.steps += 1
        for job in tuple(self._jobs.values()):
            self._deliver(job)

    def _arrange(self) -> None:
        """Put those who decode first, and behind them the prompts in a fair order."""
        members = self._batch.members
        feeding = [_Prompt(m, m.sequence, self._jobs[m].fed) for m in members if _missing(m) > 1]
        if len(feeding) < 2:
            return
        order = prompt_order(feeding, self.counts.steps)
        decoding = [member for member in members if _missing(member) <= 1]
        self._batch.members = [*decoding, *(feeding[i].member for i in order)]

    def _deliver(self, job: Job) -> None:
        member = job.member
        assert member is not None
        position = member.sequence.position
        if position != job.position:
            job.position, job.fed = position, self.counts.steps
        start = len(job.request.prompt)
        fresh = member.sequence.tokens[start + job.delivered : start + member.sampled]
        for token in fresh:
            odds = job.odds[job.delivered] if job.request.logprobs is not None else None
            self._outbox.put(job, Sampled(token, odds))
            job.delivered += 1
        self.counts.sampled_tokens += len(fresh)
        if not member.ended or member in self._batch.members:
            return
        if member.error is not None:
            self._drop(job, told(member.error))
            return
        reason = _REASONS[member.stop_reason or StopReason.CANCELLED]
        if self._closing and reason is FinishReason.INTERRUPTED:
            self._outbox.put(job, closing())  # an answer that was cut off must not look like a long one
        else:
            self._outbox.put(job, Ended(reason, member.sequence.usage()))
        if reason is FinishReason.INTERRUPTED:
            self.counts.cancelled += 1
        else:
            self.counts.finished += 1
            self._seconds += 0.1 * (monotonic() - job.begun - self._seconds)
        self._leave(job)

    def _leave(self, job: Job) -> None:
        """Keep the timeline of a turn that is over."""
        member, job.member = job.member, None
        assert member is not None
        del self._jobs[member]
        if member.sequence.position:
            self._timelines.keep(member.sequence)

    def _make_room(self, error: CacheMemoryError) -> None:
        """After a pass for which there was no memory: idle timelines go, then the turn that came last."""
        if self._timelines.release():
            return
        latest = max(self._jobs.values(), key=lambda job: job.begun)
        self._drop(latest, out_of_memory(error))

    def _drop(self, job: Job, error: Exception) -> None:
        """End a running turn by an error; its state goes."""
        member, job.member = job.member, None
        assert member is not None
        del self._jobs[member]
        if member in self._batch.members:
            self._batch.members.remove(member)
        self._fail(job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        self.counts.failed += 1
        self._outbox.put(job, error)

    def _end(self) -> None:
        self._outbox.send()
        if self._last_act is not None:
            try:
                self._last_act(self._timelines)
            except Exception as error:
                _log.warning("states are not kept: %s", kind_and_place(error))
        while self._timelines.release():
            pass

    def _expected_wait(self) -> int:
        """Seconds after which a place in the queue is likely."""
        rounds = (len(self._queue) + 1) / self.limits.sequences
        return max(1, min(60, math.ceil(rounds * self._seconds)))


@dataclass(frozen=True, slots=True)
class _Prompt:
    member: Member
    sequence: Sequence
    fed: int

    @property
    def missing(self) -> int:
        return _missing(self.member)


def _missing(member: Member) -> int:
    return len(member.sequence.tokens) - member.sequence.position


def _params(request: TurnRequest) -> SamplingParams:
    how = request.sampling
    return SamplingParams(
        temperature=how.temperature,
        top_p=how.top_p,
        min_p=how.min_p,
        seed=how.seed,
        max_tokens=how.max_tokens,
        stop_ids=(),
        thinking_budget=how.thinking_budget,
        top_k=how.top_k,
    )
