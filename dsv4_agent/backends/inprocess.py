"""The model in this process: a worker thread computes, the event loop only reads a queue.

One sequence lives as long as the backend, so each turn computes only what was appended. The engine's packages
(torch among them) are imported when a model is loaded, not before.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from dsv4_agent.backends.base import (
    BackendEvent,
    BackendInfo,
    BackendKind,
    Conversation,
    Finished,
    GenerationRequest,
    GenerationUsage,
    GrammarUse,
    ModelError,
    PrefixSynced,
    SampledIds,
)
from dsv4_agent.dsml.dialect import EOS, GrammarMode
from dsv4_agent.dsml.events import FinishReason
from dsv4_agent.dsml.schema import ToolSchema
from dsv4_agent.dsml.segments import Segment
from dsv4_agent.dsml.vocabulary import Vocabulary

if TYPE_CHECKING:
    from dsv4_agent.dsml.grammar import DsmlConstraint
    from dsv4_model.engine import Engine


class InProcessBackend:
    """A backend over a loaded engine, whose tool calls keep to the DSML grammar as the request asks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sequence = engine.sequence()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dsv4-engine")
        self._info = BackendInfo(engine.name, BackendKind.INPROCESS, engine.context_window, tokenizes=True)

    @classmethod
    def load(cls, source: str | Path, *, threads: int | None = None) -> InProcessBackend:
        """Load `"nano"` or a checkpoint folder; takes seconds and blocks. Raises `ModelError`."""
        try:
            from dsv4_model.engine import Engine
        except ImportError as error:
            raise ModelError(
                f"the engine can't be imported ({error}): install it with pip install 'dsv4-agent[local]'"
            ) from error
        try:
            return cls(Engine.load(source, threads=threads))
        except Exception as error:  # the engine's errors share no base class, and each carries its remedy
            raise ModelError(f"the model {source} can't be loaded: {_one_line(error)}") from error

    @property
    def info(self) -> BackendInfo:
        return self._info

    @property
    def vocabulary(self) -> Vocabulary:
        return self._engine.tokenizer

    def encode(self, segments: Sequence[Segment]) -> tuple[int, ...]:
        return tuple(self._engine.tokenizer.encode_segments(segments))

    async def generate(
        self, conversation: Conversation, request: GenerationRequest
    ) -> AsyncIterator[BackendEvent]:
        tokens = list(conversation.tokens())
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[BackendEvent | ModelError] = asyncio.Queue()
        cancelled = threading.Event()

        def put(event: BackendEvent | ModelError) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        def work() -> None:
            try:
                self._compute(tokens, request, cancelled, put)
            except Exception as error:  # whatever the engine raises belongs to the caller, not to the thread
                put(ModelError(f"the model failed: {_one_line(error)}"))

        done = loop.run_in_executor(self._worker, work)
        try:
            while True:
                event = await events.get()
                if isinstance(event, ModelError):
                    raise event
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            # The thread must be out of the sequence before anyone uses it again.
            cancelled.set()
            await asyncio.wait({done})

    async def close(self) -> None:
        """End the worker thread and forget the KV state; safe to call twice."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _compute(
        self,
        tokens: list[int],
        request: GenerationRequest,
        cancelled: threading.Event,
        put: Callable[[BackendEvent], None],
    ) -> None:
        from dsv4_model.engine import StopReason
        from dsv4_model.sampling import SamplingParams

        sequence = self._sequence
        report = sequence.sync(tokens, cancelled=cancelled.is_set)
        put(PrefixSynced(report.reused, report.prefilled, report.restored_from, report.cause))
        end = self._engine.tokenizer.id_of(EOS)
        params = SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            min_p=request.min_p,
            seed=request.seed,
            max_tokens=max(1, request.max_tokens),
            stop_ids=() if end is None else (end,),
            thinking_budget=request.thinking_budget,
        )
        constraint = (
            dsml_constraint(request, self.vocabulary)
            if request.tools and request.grammar is not GrammarMode.OFF
            else None
        )
        count = 0
        for token in sequence.generate(params, constraint=constraint, cancelled=cancelled.is_set):
            count += 1
            put(SampledIds((token,)))
        reason = {
            StopReason.STOP: FinishReason.STOP,
            StopReason.LENGTH: FinishReason.LENGTH,
            StopReason.CONTEXT: FinishReason.LENGTH,
        }.get(sequence.stop_reason or StopReason.CANCELLED, FinishReason.INTERRUPTED)
        used = None
        if constraint is not None and request.grammar is GrammarMode.COUNTED:
            used = GrammarUse(constraint.counted, constraint.violations)
        usage = GenerationUsage(len(tokens), report.reused, count)
        put(Finished(reason, usage, used, sequence.usage()))


def dsml_constraint(request: GenerationRequest, vocabulary: Vocabulary) -> DsmlConstraint:
    """The grammar of a turn's tool calls: only declared tools and parameters, values free."""
    from dsv4_agent.dsml.grammar import DsmlConstraint

    schemas: Mapping[str, ToolSchema] = {
        schema.name: schema for schema in (ToolSchema.from_function(tool) for tool in request.tools)
    }
    return DsmlConstraint(schemas, vocabulary, request.dialect, request.grammar)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or repr(error)
    return text if len(text) <= 500 else text[:497] + "..."
