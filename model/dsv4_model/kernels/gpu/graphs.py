"""Decode steps as CUDA graphs: captured once for a batch size and a context size, then replayed.

Not a line of this file that touches CUDA has ever been run. What is captured is the very function that runs
uncaptured, over a plan whose tensors are written over before each replay.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from enum import Enum, auto
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
    """What is captured: the layers of one device."""

    weights: ModelWeights
    layout: CacheLayout
    device: torch.device

    def describe(self, pieces: Items[Piece], positions: Items[int], capacity: int | None = None) -> PlanData:
        """See `TritonPasses.describe`."""
        ...

    def main(self, plan: Plan, streams: Tensor | None = None) -> Tensor:
        """See `TritonPasses.main`."""
        ...

    def block(self, plan: Plan, streams: Tensor, embedded: Tensor) -> Tensor:
        """See `TritonPasses.block`."""
        ...

    def main_logits(self, streams: Tensor) -> Tensor:
        """See `TritonPasses.main_logits`."""
        ...

    def draft_logits(self, streams: Tensor) -> Tensor:
        """See `TritonPasses.draft_logits`."""
        ...


class _Step(Enum):
    """From the embeddings; from the streams of the device before; the MTP block."""

    START = auto()
    GO_ON = auto()
    DRAFT = auto()


@dataclass(slots=True)
class _Captured:
    """Static inputs, what replays (None: run it again), static outputs. ``ends``: logits are wanted."""

    step: _Step
    ends: bool
    plan: Plan
    streams: Tensor
    embedded: Tensor
    graph: torch.cuda.CUDAGraph | None = None
    logits: Tensor | None = None
    out: Tensor | None = None


class Graphs:
    """Decode steps of one token a piece, on the current device. Batches are filled up to a power of two with
    a piece that nobody reads, and page tables to a power of two of pages, so that few graphs serve all steps.

    A model on several devices has one of these on each: no graph spans two.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._captured: dict[tuple[_Step, bool, int, int], _Captured] = {}
        self._filler: Piece | None = None

    def serve(self, pieces: Items[Piece]) -> bool:
        """Whether these are decode steps that a graph can stand for."""
        return len(pieces) <= MOST_PIECES and all(len(piece.ids) == 1 for piece in pieces)

    def forward(
        self, pieces: Items[Piece], positions: Items[int], streams: Tensor | None, *, ends: bool
    ) -> tuple[Tensor, Tensor]:
        """Logits (none unless it ``ends`` here) and streams of every piece, valid until the next step."""
        step = _Step.START if streams is None else _Step.GO_ON
        return self._run(step, pieces, positions, streams, None, ends=ends)

    def draft(
        self, pieces: Items[Piece], positions: Items[int], streams: Tensor, embedded: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same of the MTP block."""
        return self._run(_Step.DRAFT, pieces, positions, streams, embedded, ends=True)

    def _run(
        self,
        step: _Step,
        pieces: Items[Piece],
        positions: Items[int],
        streams: Tensor | None,
        embedded: Tensor | None,
        *,
        ends: bool,
    ) -> tuple[Tensor, Tensor]:
        count, batch = len(pieces), block_of(len(pieces))
        capacity = block_of(max(positions) // PAGE_TOKENS + 1, _LEAST_PAGES)
        filler = [self._fill()] * (batch - count)
        made = self._steps.describe([*pieces, *filler], [*positions, *([0] * len(filler))], capacity)
        key = (step, ends, batch, capacity)
        found = self._captured.get(key) or self._blank(step, ends, batch, made)
        found.plan.update(made)
        if streams is not None:
            found.streams[:count] = streams
        if embedded is not None:
            found.embedded[:count] = embedded
        if key not in self._captured:
            self._capture(found)
            self._captured[key] = found
        if found.graph is not None:
            found.graph.replay()
        else:
            found.logits, found.out = self._step(found)
        assert found.logits is not None and found.out is not None
        return found.logits[:count], found.out[:count]

    def _blank(self, step: _Step, ends: bool, batch: int, made: PlanData) -> _Captured:
        c, device = self._steps.weights.config, self._steps.device
        streams = torch.zeros(batch, c.hc_mult, c.hidden_size, device=device)
        embedded = torch.zeros(batch, c.hidden_size, device=device)
        return _Captured(step, ends, Plan.of(made, device), streams, embedded)

    def _step(self, captured: _Captured) -> tuple[Tensor, Tensor]:
        steps = self._steps
        match captured.step:
            case _Step.DRAFT:
                out = steps.block(captured.plan, captured.streams, captured.embedded)
                return steps.draft_logits(out), out
            case _Step.START:
                out = steps.main(captured.plan)
            case _Step.GO_ON:
                out = steps.main(captured.plan, captured.streams)
        return steps.main_logits(out if captured.ends else out[:0]), out

    def _capture(self, captured: _Captured) -> None:
        """Run a few times, which compiles every kernel, then record.

        A step run twice writes the same rows to the same places, so that the caches are none the worse.
        """
        if self._steps.device.type != "cuda":
            return
        side = torch.cuda.Stream(self._steps.device)
        side.wait_stream(torch.cuda.current_stream(self._steps.device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                self._step(captured)
        torch.cuda.current_stream(self._steps.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # By default PyTorch captures on one stream for all graphs, which belongs to one device.
        with torch.cuda.graph(graph, stream=side):
            captured.logits, captured.out = self._step(captured)
        captured.graph = graph

    def _fill(self) -> Piece:
        """A piece at position 0 of a cache of its own. Its token closes no block, so it needs no page."""
        if self._filler is None:
            steps = self._steps
            cache = KVCache(steps.layout, PagePool(steps.layout.page_bytes, steps.device))
            self._filler = Piece(cache, [0])
        return self._filler
