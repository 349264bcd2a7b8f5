"""Ring slots that a pass will write to and that may have to be as they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from dsv4_model.cache.layout import LayerLayout

__all__ = ["SavedRow", "put_back_rows", "saved_rows"]


@dataclass(frozen=True, slots=True)
class SavedRow:
    """What the slot of ``position`` held in one ring: bytes from ``start`` on."""

    position: int
    start: int
    row: Tensor


def saved_rows(rings: Tensor, layers: Iterable[LayerLayout], positions: range) -> Iterator[SavedRow]:
    """Copies of all slots that tokens at ``positions`` will be written to."""
    for layer in layers:
        for ring in layer.rings:
            for position in positions:
                start = ring.offset + position % ring.slots * ring.row_bytes
                yield SavedRow(position, start, rings[start : start + ring.row_bytes].clone())


def put_back_rows(rings: Tensor, rows: Iterable[SavedRow], first: int) -> None:
    """Undo what was written at positions from ``first`` on."""
    for saved in rows:
        if saved.position >= first:
            rings[saved.start : saved.start + saved.row.numel()].copy_(saved.row)
