"""Copies of a timeline's rings without the slots that nothing will read again.

A compressor's rows matter until their block closes: at the end of a page HCA, whose rows are two thirds of
all rings of the released models, has none. Rows of a window that isn't full yet come first in its ring.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dsv4_model.cache.layout import CacheLayout
from dsv4_model.config import AttentionKind

__all__ = ["copied_bytes", "copy_of_rings", "fresh_rings", "put_back"]


def fresh_rings(rings: Tensor, layout: CacheLayout) -> None:
    """Make ``rings`` those of a timeline without tokens: an absent block has gate -inf and never weighs."""
    rings.zero_()
    for layer in layout.layers:
        for ring in (layer.gates, layer.key_gates):
            if ring is not None:
                rings[ring.offset : ring.offset + ring.nbytes].view(torch.float32).fill_(-torch.inf)


def copy_of_rings(rings: Tensor, layout: CacheLayout, position: int) -> Tensor:
    """uint8, as much as a timeline at ``position`` can still read."""
    stretches = [rings[start:stop] for start, stop in _alive(layout, position)]
    return torch.cat(stretches) if stretches else rings.new_empty(0)


def copied_bytes(layout: CacheLayout, position: int) -> int:
    """Bytes of a copy that is taken at ``position``."""
    return sum(stop - start for start, stop in _alive(layout, position))


def put_back(rings: Tensor, copy: Tensor, layout: CacheLayout, position: int) -> None:
    """Make ``rings`` what they were when ``copy`` was taken at ``position``; the rest is as in fresh ones."""
    fresh_rings(rings, layout)
    done = 0
    for start, stop in _alive(layout, position):
        rings[start:stop].copy_(copy[done : done + stop - start])
        done += stop - start


def _alive(layout: CacheLayout, position: int) -> Iterator[tuple[int, int]]:
    """Bytes that are alive at ``position``, from and to; neighbours joined."""
    begin = end = 0
    for start, stop in _alive_rows(layout, position):
        if start != end:
            if end > begin:
                yield begin, end
            begin = start
        end = stop
    if end > begin:
        yield begin, end


def _alive_rows(layout: CacheLayout, position: int) -> Iterator[tuple[int, int]]:
    for layer in layout.layers:
        for ring in layer.rings:
            rows = min(position, ring.slots)
            if ring is not layer.window and layer.kind is AttentionKind.HCA:
                rows = position % ring.slots
            elif ring is not layer.window:
                rows = ring.slots if position else 0
            yield ring.offset, ring.offset + rows * ring.row_bytes
