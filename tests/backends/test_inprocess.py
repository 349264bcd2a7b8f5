"""The in-process backend over a stand-in engine: order of events, cancellation, errors."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="the engine's package needs torch")

from dsv4_agent.backends.base import (
    BackendEvent,
    Finished,
    GenerationRequest,
    GrammarUse,
    ModelError,
    PrefixSynced,
    SampledIds,
)
from dsv4_agent.backends.inprocess import InProcessBackend
from dsv4_agent.dsml.dialect import Dialect, GrammarMode, Thinking
from dsv4_agent.dsml.events import FinishReason
from dsv4_agent.dsml.segments import Segment
from dsv4_agent.session.transcript import Entry, EntryKind, Transcript
from dsv4_model.checkpoint_reader import CheckpointError
from dsv4_model.engine import CacheMemoryError, ContextOverflowError, StopReason, SyncReport
from dsv4_model.expert_store import ExpertBudgetError
from dsv4_model.prefix_store import StoreError


class Sequence:
    """Yields `ids`; endless when there are none. Counts how many threads are inside at once."""

    def __init__(self, ids: list[int], failure: Exception | None = None) -> None:
        self.ids = ids
        self.failure = failure
        self.synced: list[list[int]] = []
        self.stop_reason: StopReason | None = None
        self.running = threading.Lock()

    def sync(self, tokens: list[int], *, cancelled: Callable[[], bool]) -> SyncReport:
        if self.failure is not None:
            raise self.failure
        self.synced.append(tokens)
        return SyncReport(0, len(tokens))

    def usage(self) -> dict[str, int]:
        return {"window": 64}

    def generate(self, params: Any, *, constraint: Any, cancelled: Callable[[], bool]) -> Iterator[int]:
        with self.running:
            self.stop_reason = StopReason.STOP
            yield from self.ids
            while not self.ids:
                if cancelled():
                    self.stop_reason = StopReason.CANCELLED
                    return
                time.sleep(0.001)
                yield 7


def backend_of(sequence: Sequence) -> InProcessBackend:
    tokenizer = SimpleNamespace(
        id_of=lambda token: 1, encode_segments=lambda parts: [len(part.text) for part in parts]
    )
    engine = SimpleNamespace(
        name="stand-in",
        context_window=100,
        tokenizer=tokenizer,
        sequence=lambda: sequence,
        options=SimpleNamespace(store=None),
        notice=None,
    )
    return InProcessBackend(engine)  # type: ignore[arg-type]


REQUEST = GenerationRequest(50, Thinking.THINKING, Dialect.V4)
CONVERSATION = Transcript([Entry(EntryKind.PROMPT, 0, (Segment("x", True),), (5, 6))])


async def collect(backend: InProcessBackend) -> list[BackendEvent]:
    return [event async for event in backend.generate(CONVERSATION, REQUEST)]


async def test_sync_then_ids_then_the_end() -> None:
    sequence = Sequence([10, 11, 1])
    events = await collect(backend_of(sequence))
    assert sequence.synced == [[5, 6]]
    assert events[0] == PrefixSynced(0, 2)
    assert events[1:4] == [SampledIds((10,)), SampledIds((11,)), SampledIds((1,))]
    assert isinstance(events[4], Finished)
    assert events[4].reason is FinishReason.STOP
    assert events[4].usage.output_tokens == 3
    assert events[4].kv_bytes == {"window": 64}


async def test_closing_early_stops_the_thread_before_returning() -> None:
    sequence = Sequence([])
    backend = backend_of(sequence)
    stream = backend.generate(CONVERSATION, REQUEST)
    await anext(stream)
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    assert not sequence.running.locked()
    sequence.ids = [1]
    assert isinstance((await collect(backend))[-1], Finished)


async def test_cancelling_the_task_stops_the_thread() -> None:
    sequence = Sequence([])
    task = asyncio.create_task(collect(backend_of(sequence)))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not sequence.running.locked()


async def test_an_engine_error_is_a_model_error_in_one_line() -> None:
    with pytest.raises(ModelError, match="the model failed: NaN here"):
        await collect(backend_of(Sequence([1], RuntimeError("NaN\n here"))))


@pytest.mark.parametrize(
    ("failure", "cause", "remedy"),
    [
        (CacheMemoryError(1 << 20), "no memory for 1,048,576 more bytes", "smaller cache format"),
        (ContextOverflowError.of(120, 100), "120 tokens don't fit", "Compact the conversation"),
        (CheckpointError("it has changed.", "Start again.", file="a.safetensors"), "a.safetensors", "Start"),
        (ExpertBudgetError("1 byte is too little.", "Give 2.", 2), "too little", "Give 2."),
        (StoreError("The KV state can't be stored.", "Free space."), "can't be stored", "Free space."),
    ],
)
async def test_errors_of_the_engine_reach_the_user_with_their_remedy(
    failure: Exception, cause: str, remedy: str
) -> None:
    with pytest.raises(ModelError) as caught:
        await collect(backend_of(Sequence([1], failure)))
    line = str(caught.value)
    assert line.startswith("the model failed: ") and "\n" not in line
    assert cause in line and remedy in line and not caught.value.unreachable


def test_an_unknown_model_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="/nowhere can't be loaded"):
        InProcessBackend.load("/nowhere")


@pytest.mark.parametrize("mode", list(GrammarMode))
async def test_only_the_counted_grammar_reports(mode: GrammarMode) -> None:
    backend = InProcessBackend.load("nano")
    tool = {"name": "git_status", "description": "", "parameters": {"type": "object", "properties": {}}}
    request = GenerationRequest(1, Thinking.CHAT, Dialect.V4, tools=(tool,), grammar=mode)
    ids = backend.encode([Segment("<｜User｜>x<｜Assistant｜></think>", True)])
    conversation = Transcript([Entry(EntryKind.PROMPT, 0, (Segment("x", True),), ids)])
    *_, end = [event async for event in backend.generate(conversation, request)]
    await backend.close()
    assert isinstance(end, Finished)
    assert end.grammar == (GrammarUse(0, 0) if mode is GrammarMode.COUNTED else None)


async def test_closing_twice_is_safe() -> None:
    backend = backend_of(Sequence([1]))
    await backend.close()
    await backend.close()
