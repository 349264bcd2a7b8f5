"""Passes over a model whose layers lie on several devices: the streams are handed from one to the next."""

from __future__ import annotations

from collections.abc import Sequence as Items

import torch
from torch import Tensor

from dsv4_model.cache.kv_cache import KVCache
from dsv4_model.cache.split_cache import SplitCache
from dsv4_model.config import ModelConfig
from dsv4_model.passes import Piece, Rows, StagePasses, expert_counts

__all__ = ["SplitPasses"]


class SplitPasses:
    """See `dsv4_model.passes.Passes`; ``stages`` follow the order of the layers.

    A token visits each device once: what moves is its streams, ``h * d`` floats, and, for a draft, its
    embedding. Within one sequence devices take turns, so that a split buys memory, not speed.
    """

    def __init__(self, config: ModelConfig, stages: tuple[StagePasses, ...]) -> None:
        self.config = config
        self.stages = stages

    @torch.inference_mode()
    def forward(self, pieces: Items[Piece], counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `Passes.forward`."""
        expert_counts(counts, self.config)
        streams: Tensor | None = None
        *early, last = self.stages
        for number, stage in enumerate(early):
            through = [Piece(_part(piece, number), piece.ids, Rows.NONE, Rows.ALL) for piece in pieces]
            _, streams = stage.forward(through, counts, _moved(streams, stage))
        return last.forward(_last(pieces), counts, _moved(streams, last))

    @torch.inference_mode()
    def draft(self, pieces: Items[Piece], streams: Tensor) -> tuple[Tensor, Tensor]:
        """See `Passes.draft`."""
        first, last = self.stages[0], self.stages[-1]
        embedded = first.embed([token for piece in pieces for token in piece.ids])
        return last.draft(_last(pieces), streams, embedded.to(last.stage.device))


def _moved(streams: Tensor | None, stage: StagePasses) -> Tensor | None:
    return None if streams is None else streams.to(stage.stage.device)


def _last(pieces: Items[Piece]) -> list[Piece]:
    return [Piece(_part(piece, -1), piece.ids, piece.logits, piece.streams) for piece in pieces]


def _part(piece: Piece, number: int) -> KVCache:
    if not isinstance(piece.cache, SplitCache):
        raise TypeError("a model on several devices takes caches that its engine made")
    return piece.cache.parts[number]
