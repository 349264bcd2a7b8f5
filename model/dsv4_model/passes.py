"""A forward pass over caches: what back ends take and give."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import torch
from torch import Tensor

from dsv4_model.cache.kv_cache import KVCache
from dsv4_model.config import ModelConfig

__all__ = ["Passes", "Piece", "Rows"]


class Rows(IntEnum):
    """Which rows of a piece's result are wanted; the numbers are shared with the native back end."""

    NONE = 0
    LAST = 1
    ALL = 2


@dataclass(frozen=True, slots=True)
class Piece:
    """New tokens ``ids`` of one timeline, for which ``cache.prepare`` has made room."""

    cache: KVCache
    ids: Items[int]
    logits: Rows = Rows.LAST
    streams: Rows = Rows.NONE

    def rows(self, wanted: Rows) -> int:
        """How many rows ``wanted`` are."""
        return {Rows.NONE: 0, Rows.LAST: 1, Rows.ALL: len(self.ids)}[wanted]


class Passes(Protocol):
    """A model on a back end. A pass advances the caches of its pieces when it has succeeded.

    After an error the rings of those caches are undefined: `KVCache.restore` brings them back.
    """

    def forward(self, pieces: Items[Piece], counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits fp32 ``[rows, vocab]`` and final streams fp32 ``[rows, h, d]`` of the wanted rows, in order.

        ``counts`` (int64 ``[layers + 1, experts]``), if given, is raised by one for each expert a token took.
        """
        ...

    def draft(self, pieces: Items[Piece], streams: Tensor) -> tuple[Tensor, Tensor]:
        """The MTP block over ``streams`` ``[tokens, h, d]`` at the caches' ``draft_position``.

        ``ids`` are the tokens one later. Logits of the token after those, and the block's own streams.
        """
        ...


def expert_counts(counts: Tensor | None, config: ModelConfig) -> None:
    """Refuse a table of the wrong shape before anything writes to it."""
    wanted = (config.num_hidden_layers + 1, config.n_routed_experts)
    if counts is not None and (counts.dtype != torch.int64 or tuple(counts.shape) != wanted):
        raise ValueError(f"expert counts must be int64 {list(wanted)}")
