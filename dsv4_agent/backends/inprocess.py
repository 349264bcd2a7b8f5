"""The model in this process: a worker thread computes, the event loop only reads a queue.

One sequence lives as long as the backend, so each turn computes only what was appended. Where the engine has
a store, the system prompt's state is on disk from the first turn on, for every session to begin with, and a
conversation's when it is left or the backend closed. The engine's packages (torch among them) are imported
when a model is loaded, not before.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dsv4_agent.backends.base import (
    BackendEvent,
    BackendInfo,
    BackendKind,
    BackendNotice,
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
from dsv4_agent.dsml.segments import Segment
from dsv4_agent.dsml.vocabulary import Vocabulary

if TYPE_CHECKING:
    from dsv4_model.engine import Engine, EngineOptions

_WORTH_STORING: Final = 256
"""Tokens: what is shorter is computed in no time."""
_PATIENCE: Final = 10.0
"""Seconds that closing waits for a state to be written."""

_log = logging.getLogger(__name__)


class InProcessBackend:
    """A backend over a loaded engine, whose tool calls keep to the DSML grammar as the request asks.

    With `keeps` conversations may be written to the engine's store, without it only what precedes them.
    Raises `CacheMemoryError` of the engine.
    """

    def __init__(self, engine: Engine, *, keeps: bool = True) -> None:
        self._engine = engine
        self._sequence = engine.sequence()
        self._keeps = keeps
        self._opening: list[int] = []
        self._problem_told = False
        self._closed = threading.Event()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dsv4-engine")
        self._info = BackendInfo(engine.name, BackendKind.INPROCESS, engine.context_window, tokenizes=True)

    @classmethod
    def load(cls, source: str | Path, *, options: EngineOptions | None = None) -> InProcessBackend:
        """Load `"nano"` or a checkpoint folder; takes seconds and blocks. Raises `ModelError`."""
        try:
            from dsv4_model.engine import Engine
        except ImportError as error:
            raise ModelError(
                f"the engine can't be imported ({error}): install it with pip install 'dsv4-agent[local]'"
            ) from error
        try:
            return cls(Engine.load(source, options=options))
        except Exception as error:  # the engine's errors share no base class, and each carries its remedy
            raise ModelError(f"the model {source} can't be loaded: {_one_line(error)}") from error

    @property
    def info(self) -> BackendInfo:
        return self._info

    @property
    def notice(self) -> str | None:
        """A line for the user about how the engine runs, if there is something to know."""
        return self._engine.notice

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
        """Keep the conversation's state, end the worker thread, forget the KV state; safe to call twice.

        A state that takes too long to write is given up.
        """
        if self._closed.is_set():
            return
        try:
            if self._keeps and self._engine.options.store is not None and self._sequence.tokens:
                kept = asyncio.get_running_loop().run_in_executor(self._worker, self._keep, self._closed)
                await asyncio.wait({kept}, timeout=_PATIENCE)
                kept.cancel()  # the loop may be gone when the thread comes to an end
        finally:
            self._closed.set()
            self._worker.shutdown(wait=False, cancel_futures=True)

    def _compute(
        self,
        tokens: list[int],
        request: GenerationRequest,
        cancelled: threading.Event,
        put: Callable[[BackendEvent], None],
    ) -> None:
        from dsv4_agent.backends.turn_constraint import turn_constraint
        from dsv4_model.engine import StopReason
        from dsv4_model.sampling import SamplingParams

        sequence = self._sequence
        report = self._sync(tokens, cancelled, put)
        put(report)
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
        tokenizer = self._engine.tokenizer
        held = turn_constraint(
            request.tools, request.grammar, request.answer_schema, tokens, tokenizer, request.dialect
        )
        if held.problem is not None and not self._problem_told:
            self._problem_told = True
            put(BackendNotice(held.problem))
        count = 0
        for token in sequence.generate(params, constraint=held.constraint, cancelled=cancelled.is_set):
            count += 1
            put(SampledIds((token,)))
        reason = {
            StopReason.STOP: FinishReason.STOP,
            StopReason.LENGTH: FinishReason.LENGTH,
            StopReason.CONTEXT: FinishReason.LENGTH,
        }.get(sequence.stop_reason or StopReason.CANCELLED, FinishReason.INTERRUPTED)
        used = None
        if held.calls is not None and request.grammar is GrammarMode.COUNTED:
            used = GrammarUse(held.calls.counted, held.calls.violations)
        usage = GenerationUsage(len(tokens), report.reused, count)
        put(Finished(reason, usage, used, sequence.usage()))

    def _sync(
        self, tokens: list[int], cancelled: threading.Event, put: Callable[[BackendEvent], None]
    ) -> PrefixSynced:
        """Make the sequence hold `tokens`; what comes before the user's first word is stored on the way."""
        sequence, reports = self._sequence, []
        if self._engine.options.store is not None:
            opening = self._opening_of(tokens)
            first_turn = _before(self._engine.tokenizer.assistant_id, tokens)
            if sequence.tokens and sequence.tokens[: len(first_turn)] != first_turn:
                self._keep(cancelled)  # another conversation begins, and this one may be taken up again
            if opening != self._opening and not self._is_stored(opening, tokens):
                reports.append(sequence.sync(opening, cancelled=cancelled.is_set))
                self._store_opening(cancelled, put)
            self._opening = opening
        reports.append(sequence.sync(tokens, cancelled=cancelled.is_set))
        prefilled = sum(report.prefilled for report in reports)
        return PrefixSynced(
            len(tokens) - prefilled,
            prefilled,
            next((report.restored_from for report in reversed(reports) if report.restored_from), None),
            next((report.cause for report in reports if report.cause), None),
            sum(report.restored for report in reports),
        )

    def _opening_of(self, tokens: list[int]) -> list[int]:
        """What many conversations begin with: all before the user speaks, if it is worth storing."""
        opening = _before(self._engine.tokenizer.user_id, tokens)
        return opening if _WORTH_STORING <= len(opening) < len(tokens) else []

    def _is_stored(self, opening: list[int], tokens: list[int]) -> bool:
        """Whether a state on disk covers the opening, or there is nothing to store."""
        store = self._engine.options.store
        if store is None or not opening:
            return True
        try:
            return store.longest(self._engine.store_key, tokens) >= len(opening)
        except OSError:  # the model's files are gone: sync says so, and how to mend it
            return True

    def _store_opening(self, cancelled: threading.Event, put: Callable[[BackendEvent], None]) -> None:
        from dsv4_model.prefix_store import StoreError

        try:
            self._engine.keep(self._sequence, cancelled=cancelled.is_set)
        except StoreError as error:
            put(BackendNotice(_one_line(error)))

    def _keep(self, cancelled: threading.Event) -> None:
        """Write the conversation's latest state; whether that works changes nothing for the user."""
        if not self._keeps:
            return
        try:
            self._engine.keep(self._sequence, cancelled=cancelled.is_set)
        except Exception as error:
            _log.warning("the conversation's state is not kept: %s", error)


def _before(token: int, tokens: list[int]) -> list[int]:
    """The part before the first such token; all, where there is none."""
    return tokens[: tokens.index(token)] if token in tokens else tokens


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or repr(error)
    return text if len(text) <= 500 else text[:497] + "..."
