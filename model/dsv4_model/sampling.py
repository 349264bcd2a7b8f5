"""From logits to the next token: temperature, nucleus, min-p, grammar mask, reproducible draws."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Allowed: TypeAlias = Sequence[int] | NDArray[np.int64]
"""Ids of a constraint: a few in a list, or most of the vocabulary in an array."""


class SamplingError(Exception):
    """No token can be chosen: the parameters, the logits or the constraint are unusable. Carries a remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}")
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens.

    Attributes:
        temperature: 0 takes the highest logit, ties to the lowest id.
        top_p: keep the most probable tokens whose probabilities reach this sum.
        min_p: keep tokens at least this fraction as probable as the most probable one.
        top_k: keep this many of the most probable tokens; 0 keeps all.
        seed: None draws a fresh one for each generation. A draw depends only on the seed and the token's
            position, so that stopping and going on changes nothing.
        max_tokens: most tokens one generation may sample.
        stop_ids: tokens that end a generation, beside the tokenizer's EOS.
        thinking_budget: after this many sampled tokens inside an open ``<think>``, ``</think>`` is forced;
            None leaves thinking unbounded.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int = 65_536
    stop_ids: tuple[int, ...] = (1,)
    thinking_budget: int | None = None
    top_k: int = 0

    def __post_init__(self) -> None:
        ranges = (
            ("temperature", self.temperature, 0.0, math.inf),
            ("top_p", self.top_p, 0.0, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
        )
        for name, value, low, high in ranges:
            if not (low <= value <= high and math.isfinite(value)):
                raise SamplingError(f"{name} is {value}.", f"Choose it between {low:g} and {high:g}.")
        if self.top_k < 0:
            raise SamplingError(f"top_k is {self.top_k}.", "Choose 1 or more, or 0 for no such limit.")
        if self.max_tokens < 1:
            raise SamplingError(f"max_tokens is {self.max_tokens}.", "Choose at least 1.")
        if self.thinking_budget is not None and self.thinking_budget < 0:
            raise SamplingError(f"thinking_budget is {self.thinking_budget}.", "Choose 0 or more, or None.")


class Sampler:
    """Chooses tokens for one generation.

    Args:
        params: how.
        size: ids at or above it are never chosen (rows of the head that no token belongs to).
    """

    def __init__(self, params: SamplingParams, size: int) -> None:
        self.params = params
        self.size = size
        self._seed = secrets.randbits(64) if params.seed is None else params.seed

    def choose(self, logits: Tensor, position: int, allowed: Allowed | None = None) -> int:
        """The next id.

        Args:
            logits: fp32 ``[vocab]``.
            position: index that the chosen token will have in its sequence.
            allowed: the only ids that may be chosen; None leaves all.

        Raises:
            SamplingError: logits with NaN, +inf or nothing finite; an empty or foreign ``allowed``.
        """
        usable = logits[: self.size].float()
        if allowed is not None:
            # NaN wins every comparison here, so that one pass finds it as well as infinity.
            _check(float(usable.max()), position)
            usable = self._masked(usable, allowed, position)
        if self.params.temperature == 0:
            # NumPy promises the first of equal values, and NaN before all others; torch.argmax doesn't.
            values = usable.cpu().numpy()
            best = int(values.argmax())
            _check(float(values[best]), position)
            return best
        _check(float(usable.max()), position)
        return self._draw(usable, position)

    def _masked(self, logits: Tensor, allowed: Allowed, position: int) -> Tensor:
        given = np.asarray(allowed, dtype=np.int64)
        ids = torch.from_numpy(given[(given >= 0) & (given < logits.shape[0])])
        if not len(ids):
            raise SamplingError(
                f"The constraint allows no token at token {position}.",
                "The grammar and the tokenizer don't belong together; switch the constraint off.",
            )
        masked = torch.full_like(logits, -torch.inf)
        masked[ids] = logits[ids]
        return masked

    def _draw(self, logits: Tensor, position: int) -> int:
        # Highest first; the stable sort of the negated logits keeps equal ones in the order of their ids.
        scaled = (logits - logits.max()).double() / self.params.temperature
        order = torch.argsort(-scaled, stable=True)
        probabilities = torch.softmax(scaled[order], 0)
        before = probabilities.cumsum(0) - probabilities
        kept = probabilities >= self.params.min_p * probabilities[0]
        # The first one always stays, or top_p = 0 would leave nothing.
        kept &= (before < self.params.top_p) | (before == 0)
        kept &= probabilities > 0
        if self.params.top_k:
            kept[self.params.top_k :] = False
        kept[0] = True
        weights = torch.where(kept, probabilities, 0.0).cumsum(0)
        point = _uniform(self._seed, position) * float(weights[-1])
        index = int(torch.searchsorted(weights, torch.tensor(point, dtype=weights.dtype), right=True))
        last = int(kept.nonzero()[-1, 0])
        return int(order[min(index, last)])


def _check(top: float, position: int) -> None:
    """Refuse logits whose greatest is ``top``."""
    if math.isnan(top) or top == math.inf:
        raise SamplingError(
            f"The model produced NaN or infinite logits at token {position}.",
            "The weights are corrupt or the working dtype overflows; check the checkpoint.",
        )
    if top == -math.inf:
        raise SamplingError(
            f"No token has a finite logit at token {position}.", "Check the checkpoint or the constraint."
        )


def _uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on nothing but its arguments: no generator state to save."""
    digest = hashlib.blake2b(f"{seed}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53
