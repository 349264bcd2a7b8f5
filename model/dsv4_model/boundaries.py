"""Which points of a timeline are kept to return to."""

from __future__ import annotations

from collections.abc import Iterator

from dsv4_model.cache.kv_cache import Boundary

__all__ = ["BOUNDARY_EVERY", "MAX_BOUNDARIES", "Boundaries"]

MAX_BOUNDARIES = 16
BOUNDARY_EVERY = 4096
"""Tokens of a long prefill after which a boundary is kept, so that a rewind replays no more than that."""


class Boundaries:
    """The kept boundaries of one timeline, in the order of their positions.

    Of too many, the most crowded one goes; the first and the last stay. So a long conversation is covered
    evenly at a bounded price: each holds one copy of the rings.
    """

    def __init__(self, kept: tuple[Boundary, ...] = ()) -> None:
        self._kept = list(kept)

    def __iter__(self) -> Iterator[Boundary]:
        return iter(tuple(self._kept))

    def __len__(self) -> int:
        return len(self._kept)

    def copy(self) -> Boundaries:
        """The same boundaries for a fork."""
        return Boundaries(tuple(self._kept))

    def latest(self, position: int) -> Boundary | None:
        """The last boundary at or before ``position``."""
        return next((b for b in reversed(self._kept) if b.position <= position), None)

    def has(self, position: int) -> bool:
        """Whether there is a boundary exactly at ``position``."""
        return any(b.position == position for b in self._kept)

    def drop_after(self, position: int) -> None:
        """Forget what lies beyond a break."""
        self._kept = [b for b in self._kept if b.position <= position]

    def add(self, boundary: Boundary) -> None:
        """Keep one more point."""
        self._kept.append(boundary)
        self._kept.sort(key=lambda b: b.position)
        if len(self._kept) > MAX_BOUNDARIES:
            positions = [b.position for b in self._kept]
            inner = range(1, len(positions) - 1)
            del self._kept[min(inner, key=lambda i: positions[i + 1] - positions[i - 1])]
