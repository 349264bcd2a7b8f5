"""The choice of tokens in one generation: sampling, grammar, thinking budget, and when it ends."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Ids
from typing import Protocol

from torch import Tensor

from dsv4_model.sampling import Allowed, Sampler, SamplingParams
from dsv4_model.sequence_errors import StopReason
from dsv4_model.tokenizer import Tokenizer

__all__ = ["Constraint", "Generation"]


class Constraint(Protocol):
    """A grammar over tokens: asked before each sample, told each sampled or forced id."""

    def allowed(self) -> Allowed | None:
        """The ids that may come next; None leaves all."""
        ...

    def accept(self, token_id: int) -> None:
        """The id that came."""
        ...


class Generation:
    """One generation's choices; `stop_reason` is set when no further token is to be chosen.

    ``watch``, if set, is told each chosen token and the logits ``[vocab]`` that it was chosen from, unmasked.
    """

    def __init__(
        self,
        tokens: Ids[int],
        params: SamplingParams,
        tokenizer: Tokenizer,
        context_window: int,
        constraint: Constraint | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        self.params = params
        self.stop_reason: StopReason | None = None
        self.watch: Callable[[Tensor, int], None] | None = None
        self.sampler = Sampler(params, tokenizer.size)
        self._constraint, self._cancelled, self._window = constraint, cancelled, context_window
        self._end_think, self._think = tokenizer.end_think_id, tokenizer.think_id
        self._stops = {tokenizer.eos_id, *params.stop_ids}
        self._thinking = _open_thinking(tokens, self._think, self._end_think)
        self._count = 0

    def ended(self, length: int) -> bool:
        """Whether to stop before another token is chosen; ``length`` is that of the sequence now."""
        if self.stop_reason is None:
            if self._count >= self.params.max_tokens:
                self.stop_reason = StopReason.LENGTH
            elif self._cancelled is not None and self._cancelled():
                self.stop_reason = StopReason.CANCELLED
            elif length >= self._window:
                self.stop_reason = StopReason.CONTEXT
        return self.stop_reason is not None

    def choose(self, logits: Tensor, position: int) -> int:
        """The token at ``position``. Raises `SamplingError`."""
        allowed = self._constraint.allowed() if self._constraint is not None else None
        budget = self.params.thinking_budget
        spent = budget is not None and self._count >= budget
        # A grammar that is in the middle of something goes first; the budget waits until it is free.
        if self._thinking and spent and (allowed is None or self._end_think in allowed):
            token = self._end_think
        else:
            token = self.sampler.choose(logits, position, allowed)
        self._thinking = token == self._think or (self._thinking and token != self._end_think)
        self._count += 1
        if self.watch is not None:
            self.watch(logits, token)
        if self._constraint is not None:
            self._constraint.accept(token)
        if token in self._stops:
            self.stop_reason = StopReason.STOP
        return token


def _open_thinking(tokens: Ids[int], think: int, end_think: int) -> bool:
    """Whether the last of the two markers opens a thought."""
    return next((token == think for token in reversed(tokens) if token in (think, end_think)), False)
