"""Positions with holes: what a model meets after a million tokens, without computing most of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dsv4_model.config import ModelConfig
from dsv4_model.rope import rope_frequencies
from dsv4_model.transformer import DeepseekV4

BLOCK = 128
"""Holes lie between blocks of this many tokens, a multiple of both compression ratios."""


class HoledRope:
    """Stands in for `RopeTable`: token i of the state is at position ``positions[i]``."""

    def __init__(self, frequencies: Tensor, positions: Tensor) -> None:
        self._frequencies = frequencies
        self._positions = positions

    def span(self, start: int, count: int, device: torch.device, step: int = 1) -> tuple[Tensor, Tensor]:
        """``(cos, sin)`` of tokens ``start, start + step, ...``, as `RopeTable.span`."""
        where = self._positions[start : start + (count - 1) * step + 1 : step].to(torch.float32)
        angles = torch.outer(where, self._frequencies)
        return angles.cos(), angles.sin()


def ropes(config: ModelConfig, positions: Tensor) -> dict[int, HoledRope]:
    """Tables for layers without (0) and with (1) a compressor."""
    c = config
    frequencies = (
        rope_frequencies(c.qk_rope_head_dim, c.rope_theta, None),
        rope_frequencies(c.qk_rope_head_dim, c.compress_rope_theta, c.rope_scaling),
    )
    return {kind: HoledRope(f, positions) for kind, f in enumerate(frequencies)}


def place(model: DeepseekV4, positions: Tensor) -> None:
    """Let token i of every state of ``model`` be at ``positions[i]`` from now on."""
    model._ropes = ropes(model.config, positions)  # type: ignore[assignment]


def scattered(rng: np.random.Generator, length: int, together: int, limit: int) -> Tensor:
    """Positions of ``length`` tokens that end at ``limit``; the last ``together`` have no hole between them.

    One hole, or one before every block, or now and then none. Half of the time the whole is as long as any
    text up to ``limit``, often about as long as it can be, and sometimes even in its logarithm.
    """
    count = length // BLOCK
    free = limit // BLOCK - count
    tail = -(-together // BLOCK)
    chance = rng.random()
    if chance < 0.5:
        size = int(rng.integers(0, free + 1))
    elif chance < 0.85:
        size = int(rng.integers(int(0.8 * free), free + 1))
    else:
        size = int(2 ** (rng.random() * np.log2(free + 1))) - 1
    holes = np.zeros(count, dtype=np.int64)
    kind = rng.random()
    if kind < 0.05:
        size = 0
    elif kind < 0.5:
        holes[rng.integers(1, count - tail + 1)] = size
    else:
        marks = np.sort(rng.integers(0, size + 1, count - tail))
        holes[1 : count - tail] = np.diff(marks)
        holes[count - tail] = size - marks[-1]
        size = int(holes.sum())
    starts = (np.arange(count) + np.cumsum(holes) + free - size) * BLOCK
    return torch.from_numpy((starts[:, None] + np.arange(BLOCK)).reshape(-1))
