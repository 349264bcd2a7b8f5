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

__all__ = ["HostSites", "Passes", "Piece", "Rows", "Stage", "StagePasses"]


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


@dataclass(frozen=True, slots=True)
class Stage:
    """Neighbouring layers on one device; ``layers`` are numbers in `ModelWeights.all_layers`.

    The embedding lies with the first layer; head and MTP block with the last.
    """

    device: torch.device
    layers: range

    def main(self, config: ModelConfig) -> range:
        """The layers without the MTP block's."""
        return range(self.layers.start, min(self.layers.stop, config.num_hidden_layers))


class StagePasses(Protocol):
    """The passes of one stage; the caches of its pieces are those of its layers alone."""

    stage: Stage

    def embed(self, ids: Items[int]) -> Tensor:
        """Embeddings fp32 ``[tokens, d]``; the first stage has them."""
        ...

    def forward(
        self, pieces: Items[Piece], counts: Tensor | None = None, streams: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `Passes.forward`, going on from ``streams`` ``[tokens, h, d]`` of the stage before.

        None: from the embeddings. Only the last stage can be asked for logits.
        """
        ...

    def draft(
        self, pieces: Items[Piece], streams: Tensor, embedded: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `Passes.draft`, for the last stage; ``embedded`` are the embeddings, None where it has them."""
        ...


class HostSites(Protocol):
    """Feed-forward sites whose weights lie in main memory while the rest of their layers is elsewhere."""

    def feed_forward(self, number: int, x: Tensor, ids: Tensor) -> Tensor:
        """Output fp32 ``[tokens, d]`` of layer ``number`` for ``x [tokens, d]``; all on the CPU."""
        ...


def expert_counts(counts: Tensor | None, config: ModelConfig) -> None:
    """Refuse a table of the wrong shape before anything writes to it."""
    wanted = (config.num_hidden_layers + 1, config.n_routed_experts)
    if counts is not None and (counts.dtype != torch.int64 or tuple(counts.shape) != wanted):
        raise ValueError(f"expert counts must be int64 {list(wanted)}")
