"""One mutable inference timeline: it owns its KV state and decides what of it to reuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dsv4_model.config import AttentionKind
from dsv4_model.sampling import Sampler, SamplingParams
from dsv4_model.state import State

if TYPE_CHECKING:
    from dsv4_model.engine import Constraint, Engine

PREFILL_CHUNK = 512
MAX_SNAPSHOTS = 8


class SequenceError(Exception):
    """A sequence was used in a way that has no meaning. Carries a remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}")
        self.remedy = remedy


class ContextOverflowError(SequenceError):
    """The tokens don't fit the model's context window."""


class PrefillCancelledError(SequenceError):
    """``sync`` was cancelled between chunks; what was computed is kept and will be reused."""


class StopReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"
    CONTEXT = "context"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What ``sync`` did.

    Attributes:
        reused: tokens whose KV was kept.
        prefilled: tokens that were computed.
        restored_from: None where the timeline simply went on; else ``"snapshot at N"`` or ``"nothing"``.
        cause: None, or what broke the prefix, e.g. ``"diverged at token 812"``.
    """

    reused: int
    prefilled: int
    restored_from: str | None = None
    cause: str | None = None


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """A point of the timeline to return to: the state and the logits after ``state.position`` tokens."""

    state: State
    logits: Tensor


class Sequence:
    """Tokens and the KV state of a prefix of them.

    ``tokens`` holds everything synced or sampled. The state covers all of it but, after a generation, the
    last sampled token: that one is pending and is fed exactly once, when it is next needed.

    A state is replaced, never advanced, so snapshots and forks share memory with the timeline until it moves
    on. A sequence is not thread-safe; give each thread a fork.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.tokens: list[int] = []
        self.stop_reason: StopReason | None = None
        self._state = engine.model.new_state()
        self._logits: Tensor | None = None
        self._snapshots: list[_Snapshot] = []
        self._epoch = 0  # a generation that finds another epoch than its own has been overtaken

    @property
    def position(self) -> int:
        """How many tokens the KV state covers; at most ``len(tokens)``."""
        return self._state.position

    def sync(self, tokens: Ids[int], *, cancelled: Callable[[], bool] | None = None) -> SyncReport:
        """Make this sequence hold exactly ``tokens``, computing as little as possible.

        An extension computes only the new part. A shorter or diverging prefix goes back to the latest
        snapshot before the break, else starts from nothing.

        Raises:
            ContextOverflowError: more tokens than the context window; nothing was changed.
            SequenceError: an id outside the vocabulary; nothing was changed.
            PrefillCancelledError: ``cancelled`` became true; the sequence holds the part that was computed.
        """
        tokens = list(tokens)
        self._check(tokens)
        self._epoch += 1
        self.stop_reason = None
        common = _common_prefix(self.tokens, tokens)
        cause, restored_from = None, None
        if common < len(self.tokens):
            cause = f"shortened to token {common}" if common == len(tokens) else f"diverged at token {common}"
        if self.position > common:
            restored_from = self._restore(common)
        self._snapshots = [s for s in self._snapshots if s.state.position <= common]
        reused = self.position
        self.tokens = tokens
        try:
            if tokens:
                self._advance(cancelled)
        except BaseException:
            self.tokens = tokens[: self.position]
            raise
        self._remember()
        return SyncReport(reused, len(tokens) - reused, restored_from, cause)

    def generate(
        self,
        params: SamplingParams,
        *,
        constraint: Constraint | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Iterator[int]:
        """Sample the continuation, yielding each id (EOS included) as it is chosen.

        Ends at EOS or a stop id, after ``max_tokens``, at the end of the context window, or when
        ``cancelled`` becomes true; ``stop_reason`` tells which. The iterator may be dropped at any point:
        every id that was yielded is in ``tokens``. It must not be resumed after another ``sync`` or
        ``generate``.

        Raises:
            SequenceError: there is nothing to continue.
            ContextOverflowError: the context window is full already.
            SamplingError: unusable logits or constraint.
        """
        if not self.tokens:
            raise SequenceError("There is nothing to continue.", "Call sync with a prompt first.")
        if len(self.tokens) >= self.engine.context_window:
            raise self._overflow(len(self.tokens) + 1)
        self._epoch += 1
        self.stop_reason = None
        return self._generate(params, constraint, cancelled, self._epoch)

    def fork(self) -> Sequence:
        """An independent sequence at the same point, sharing what is immutable."""
        twin = Sequence(self.engine)
        twin.tokens = list(self.tokens)
        twin.stop_reason = self.stop_reason
        twin._state = self._state
        twin._logits = self._logits
        twin._snapshots = list(self._snapshots)
        return twin

    def usage(self) -> dict[str, int]:
        """Bytes of the current KV state by kind; snapshots are not counted.

        Kinds: window, csa_entries, hca_entries, index_keys, partial (rows of unfinished blocks).
        """
        usage = dict.fromkeys(("window", "csa_entries", "hca_entries", "index_keys", "partial"), 0)
        config = self.engine.config
        for number, layer in enumerate(self._state.layers):
            entries = "csa_entries" if config.kind(number) is AttentionKind.CSA else "hca_entries"
            for name, tensor in layer.tensors().items():
                match name:
                    case "window" | "index_keys":
                        usage[name] += tensor.nbytes
                    case "entries":
                        usage[entries] += tensor.nbytes
                    case _:
                        usage["partial"] += tensor.nbytes
        return usage

    def _generate(
        self,
        params: SamplingParams,
        constraint: Constraint | None,
        cancelled: Callable[[], bool] | None,
        epoch: int,
    ) -> Iterator[int]:
        tokenizer = self.engine.tokenizer
        sampler = Sampler(params, tokenizer.size)
        stops = {tokenizer.eos_id, *params.stop_ids}
        thinking = _open_thinking(self.tokens, tokenizer.think_id, tokenizer.end_think_id)
        try:
            for count in range(params.max_tokens):
                if cancelled is not None and cancelled():
                    self.stop_reason = StopReason.CANCELLED
                    return
                if len(self.tokens) >= self.engine.context_window:
                    self.stop_reason = StopReason.CONTEXT
                    return
                logits = self._advance(cancelled)
                allowed = constraint.allowed() if constraint is not None else None
                spent = params.thinking_budget is not None and count >= params.thinking_budget
                # A grammar that is in the middle of something goes first; the budget waits until it is free.
                if thinking and spent and (allowed is None or tokenizer.end_think_id in allowed):
                    token = tokenizer.end_think_id
                else:
                    token = sampler.choose(logits, len(self.tokens), allowed)
                thinking = token == tokenizer.think_id or (thinking and token != tokenizer.end_think_id)
                self.tokens.append(token)
                if constraint is not None:
                    constraint.accept(token)
                if token in stops:
                    self.stop_reason = StopReason.STOP
                yield token
                if self._epoch != epoch:
                    raise SequenceError(
                        "The sequence has moved on since this generation began.",
                        "Start a new generate after sync; use fork to keep both.",
                    )
                if token in stops:
                    return
            self.stop_reason = StopReason.LENGTH
        except PrefillCancelledError:
            self.stop_reason = StopReason.CANCELLED
        finally:
            if self._epoch == epoch:
                self._remember()

    def _advance(self, cancelled: Callable[[], bool] | None) -> Tensor:
        """Feed what the state doesn't cover yet; the logits ``[vocab]`` after the last token."""
        while self.position < len(self.tokens):
            if cancelled is not None and cancelled():
                raise PrefillCancelledError(
                    f"The prompt was cancelled after {self.position} of {len(self.tokens)} tokens.",
                    "Sync again to go on from there.",
                )
            chunk = self.tokens[self.position : self.position + PREFILL_CHUNK]
            # Snapshots and forks hold this very state, and an interrupt must not reach it: a copy moves.
            state = self._state.fork()
            with torch.inference_mode():
                logits = self.engine.model(torch.tensor([chunk]), state, last_only=True)
            self._state, self._logits = state, logits[0, -1]
        if self._logits is None:
            raise SequenceError("There is nothing to continue.", "Call sync with a prompt first.")
        return self._logits

    def _restore(self, common: int) -> str:
        """Go back to the latest snapshot that covers at most ``common`` tokens, or to nothing."""
        best = max(
            (s for s in self._snapshots if s.state.position <= common),
            key=lambda s: s.state.position,
            default=None,
        )
        if best is None:
            self._state, self._logits = self.engine.model.new_state(), None
            return "nothing"
        self._state, self._logits = best.state, best.logits
        return f"snapshot at {best.state.position}"

    def _remember(self) -> None:
        """Keep the current point. Of too many, the most crowded one goes; the first and last stay."""
        if self._logits is None or any(s.state.position == self.position for s in self._snapshots):
            return
        self._snapshots.append(_Snapshot(self._state, self._logits))
        self._snapshots.sort(key=lambda s: s.state.position)
        if len(self._snapshots) > MAX_SNAPSHOTS:
            positions = [s.state.position for s in self._snapshots]
            inner = range(1, len(positions) - 1)
            del self._snapshots[min(inner, key=lambda i: positions[i + 1] - positions[i - 1])]

    def _check(self, tokens: list[int]) -> None:
        if len(tokens) > self.engine.context_window:
            raise self._overflow(len(tokens))
        size = self.engine.config.vocab_size
        wrong = next((token for token in tokens if not 0 <= token < size), None)
        if wrong is not None:
            raise SequenceError(
                f"Token id {wrong} is outside the vocabulary of {size}.",
                "Encode with the tokenizer of this model.",
            )

    def _overflow(self, wanted: int) -> ContextOverflowError:
        return ContextOverflowError(
            f"{wanted:,} tokens don't fit the context window of {self.engine.context_window:,}.",
            "Compact the conversation, start a new one, or use a model with a larger window.",
        )


def _common_prefix(a: Ids[int], b: Ids[int]) -> int:
    length = min(len(a), len(b))
    if a[:length] == b[:length]:
        return length
    return next(i for i in range(length) if a[i] != b[i])


def _open_thinking(tokens: Ids[int], think: int, end_think: int) -> bool:
    """Whether the last of the two markers opens a thought."""
    return next((token == think for token in reversed(tokens) if token in (think, end_think)), False)
