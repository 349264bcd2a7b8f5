"""What a pass is told about its pieces, as device tensors: nothing about them is compiled in or waited for.

So one captured graph serves every decode step of its batch size, whatever the positions.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsv4_model.cache.formats import PAGE_TOKENS
from dsv4_model.passes import Piece

__all__ = ["Closers", "Plan", "PlanShape", "Tiles"]


@dataclass(frozen=True, slots=True)
class Closers:
    """Tokens that may close a block of ``ratio``: int64 ``tokens [n]``. Kernels check whether they do.

    ``starts [n]`` is the position of the block's first token.
    """

    ratio: int
    tokens: Tensor
    starts: Tensor


@dataclass(frozen=True, slots=True)
class Tiles:
    """Runs of at most ``size`` tokens of one piece: int64 ``firsts [n]`` and ``counts [n]``."""

    size: int
    firsts: Tensor
    counts: Tensor


@dataclass(frozen=True, slots=True)
class PlanShape:
    """Sizes of everything in a plan; plans of one shape can be written over each other.

    Attributes:
        tokens: of all pieces.
        pieces: how many.
        capacity: pages that the table has room for, of each piece.
        tiles: of each tile size, smallest first: (size, how many).
        closers: of each ratio: (ratio, how many candidates).
    """

    tokens: int
    pieces: int
    capacity: int
    tiles: tuple[tuple[int, int], ...]
    closers: tuple[tuple[int, int], ...]


class Plan:
    """Views into one int64 tensor.

    Attributes:
        ids, positions, pieces: ``[tokens]``; a token's id, its position, its piece.
        starts, firsts, ends: ``[pieces]``; row and position of the first token, position after the last.
        rings: ``[pieces]``; address of the cache's rings.
        pages: ``[pieces, capacity]``; addresses of its pages.
        most: most tokens that a piece's cache can hold after the pass.
    """

    def __init__(self, shape: PlanShape, data: Tensor) -> None:
        self.shape, self.data = shape, data
        self.tokens, self.capacity = shape.tokens, shape.capacity
        self.most = shape.capacity * PAGE_TOKENS
        taken = 0

        def take(count: int) -> Tensor:
            nonlocal taken
            taken += count
            return data[taken - count : taken]

        self.ids, self.positions, self.pieces = (take(shape.tokens) for _ in range(3))
        self.starts, self.firsts, self.ends, self.rings = (take(shape.pieces) for _ in range(4))
        self.pages = take(shape.pieces * shape.capacity).view(shape.pieces, -1)
        self.tiles = tuple(Tiles(size, take(n), take(n)) for size, n in shape.tiles)
        self.closers = {ratio: Closers(ratio, take(n), take(n)) for ratio, n in shape.closers}

    @classmethod
    def of(cls, made: PlanData, device: torch.device) -> Plan:
        """The plan on ``device``."""
        return cls(made.shape, torch.from_numpy(made.data).to(device))

    def update(self, made: PlanData) -> None:
        """Say the same about other pieces; the shape must be this plan's."""
        if made.shape != self.shape:
            raise ValueError("a plan can only be written over by one of its shape")
        self.data.copy_(torch.from_numpy(made.data))


@dataclass(frozen=True, slots=True)
class PlanData:
    """A plan on the host, in one array."""

    shape: PlanShape
    data: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        pieces: Items[Piece],
        positions: Items[int],
        ratios: Items[int],
        tiles: Items[int],
        *,
        capacity: int | None = None,
        always: bool = False,
    ) -> PlanData:
        """Describe ``pieces`` that start at ``positions``.

        Args:
            pieces: what is computed.
            positions: of the first token of each.
            ratios: of the model's compressors.
            tiles: sizes of tiles that kernels ask for.
            capacity: room for that many pages; None: as many as are needed.
            always: every token is a candidate for closing a block, so that the shape depends on the counts
                alone.
        """
        counts = np.array([len(piece.ids) for piece in pieces])
        firsts = np.array(positions, dtype=np.int64)
        starts = np.concatenate(([0], counts.cumsum()[:-1]))
        ends = firsts + counts
        owner = np.repeat(np.arange(len(pieces)), counts)
        where = np.arange(counts.sum()) - starts[owner] + firsts[owner]
        needed = int(-(-ends.max() // PAGE_TOKENS))
        if capacity is None:
            capacity = needed
        pages = np.zeros((len(pieces), capacity), dtype=np.int64)
        for row, piece in zip(pages, pieces, strict=True):
            held = min(len(piece.cache.pages), capacity)
            row[:held] = piece.cache.table[:held]
        parts = [
            np.concatenate([np.asarray(piece.ids, dtype=np.int64) for piece in pieces]),
            where,
            owner,
            starts,
            firsts,
            ends,
            np.array([piece.cache.rings.data_ptr() for piece in pieces]),
            pages.ravel(),
        ]
        shapes = []
        for size in tiles:
            tile_firsts = np.concatenate(
                [np.arange(s, s + n, size) for s, n in zip(starts, counts, strict=True)]
            )
            stops = (starts + counts)[owner[tile_firsts]]
            parts += (tile_firsts, np.minimum(tile_firsts + size, stops) - tile_firsts)
            shapes.append((size, len(tile_firsts)))
        closing = []
        for ratio in ratios:
            tokens = np.arange(len(where)) if always else ((where + 1) % ratio == 0).nonzero()[0]
            parts += (tokens, where[tokens] + 1 - ratio)
            closing.append((ratio, len(tokens)))
        shape = PlanShape(len(where), len(pieces), capacity, tuple(shapes), tuple(closing))
        return cls(shape, np.concatenate(parts).astype(np.int64))
