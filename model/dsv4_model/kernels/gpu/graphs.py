"""Decode steps as CUDA graphs: captured once for a batch size and a context size, then replayed.

Not a line of this file that touches CUDA has ever been run. What is captured is the very function that runs
uncaptured, over a plan whose tensors are written over before each replay.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dsv4_model.cache.formats import PAGE_TOKENS
from dsv4_model.cache.kv_cache import KVCache
from dsv4_model.cache.layout import CacheLayout
from dsv4_model.cache.pages import PagePool
from dsv4_model.kernels.gpu.plan import Plan, PlanData
from dsv4_model.kernels.gpu.tuning import block_of
from dsv4_model.passes import Piece
from dsv4_model.weights import ModelWeights

__all__ = ["Graphs", "Steps"]

MOST_PIECES = 32
_LEAST_PAGES = 16
_WARM_UPS = 2


class Steps(Protocol):
    """What is captured."""

    weights: ModelWeights
    layout: CacheLayout
    device: torch.device

    def describe(self, pieces: Items[Piece], positions: Items[int], capacity: int | None = None) -> PlanData:
        """See `TritonPasses.describe`."""
        ...

    def main(self, plan: Plan) -> Tensor:
        """See `TritonPasses.main`."""
        ...

    def block(self, plan: Plan, streams: Tensor) -> Tensor:
        """See `TritonPasses.block`."""
        ...

    def main_logits(self, streams: Tensor) -> Tensor:
        """See `TritonPasses.main_logits`."""
        ...

    def draft_logits(self, streams: Tensor) -> Tensor:
        """See `TritonPasses.draft_logits`."""
        ...


@dataclass(slots=True)
class _Captured:
    """Static inputs, what replays (None: run it again), static outputs."""

    plan: Plan
    streams: Tensor
    graph: torch.cuda.CUDAGraph | None = None
    logits: Tensor | None = None
    out: Tensor | None = None


class Graphs:
    """Decode steps of one token a piece. Batches are filled up to a power of two with a piece that nobody
    reads, and page tables to a power of two of pages, so that few graphs serve all steps."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._captured: dict[tuple[bool, int, int], _Captured] = {}
        self._filler: Piece | None = None

    def serve(self, pieces: Items[Piece]) -> bool:
        """Whether these are decode steps that a graph can stand for."""
        return len(pieces) <= MOST_PIECES and all(len(piece.ids) == 1 for piece in pieces)

    def forward(self, pieces: Items[Piece], positions: Items[int]) -> tuple[Tensor, Tensor]:
        """Logits and streams of every piece, valid until the next step."""
        return self._run(pieces, positions, None)

    def draft(self, pieces: Items[Piece], positions: Items[int], streams: Tensor) -> tuple[Tensor, Tensor]:
        """The same of the MTP block."""
        return self._run(pieces, positions, streams)

    def _run(
        self, pieces: Items[Piece], positions: Items[int], streams: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        count, batch = len(pieces), block_of(len(pieces))
        capacity = block_of(max(positions) // PAGE_TOKENS + 1, _LEAST_PAGES)
        filler = [self._fill()] * (batch - count)
        made = self._steps.describe([*pieces, *filler], [*positions, *([0] * len(filler))], capacity)
        key = (streams is not None, batch, capacity)
        found = self._captured.get(key)
        if found is None:
            c = self._steps.weights.config
            blank = torch.zeros(batch, c.hc_mult, c.hidden_size, device=self._steps.device)
            found = _Captured(Plan.of(made, self._steps.device), blank)
        found.plan.update(made)
        if streams is not None:
            found.streams[:count] = streams
        if key not in self._captured:
            self._capture(found, drafts=streams is not None)
            self._captured[key] = found
        if found.graph is not None:
            found.graph.replay()
        else:
            found.logits, found.out = self._step(found, drafts=streams is not None)
        assert found.logits is not None and found.out is not None
        return found.logits[:count], found.out[:count]

    def _step(self, captured: _Captured, *, drafts: bool) -> tuple[Tensor, Tensor]:
        steps = self._steps
        if drafts:
            out = steps.block(captured.plan, captured.streams)
            return steps.draft_logits(out), out
        out = steps.main(captured.plan)
        return steps.main_logits(out), out

    def _capture(self, captured: _Captured, *, drafts: bool) -> None:
        """Run a few times, which compiles every kernel, then record.

        A step run twice writes the same rows to the same places, so that the caches are none the worse.
        """
        if self._steps.device.type != "cuda":
            return
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                self._step(captured, drafts=drafts)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured.logits, captured.out = self._step(captured, drafts=drafts)
        captured.graph = graph

    def _fill(self) -> Piece:
        """A piece at position 0 of a cache of its own. Its token closes no block, so it needs no page."""
        if self._filler is None:
            steps = self._steps
            cache = KVCache(steps.layout, PagePool(steps.layout.page_bytes, steps.device))
            self._filler = Piece(cache, [0])
        return self._filler
