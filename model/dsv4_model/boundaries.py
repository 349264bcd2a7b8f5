"""Which points of a timeline are kept to return to: many near its end, few far back, within a budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dsv4_model.cache.kv_cache import Boundary

__all__ = ["BOUNDARY_EVERY", "BUDGET", "LEAST_KEPT", "MILESTONE_EVERY", "MOST_KEPT", "Boundaries"]

MILESTONE_EVERY = 128
"""Tokens after which a point is kept that nobody asked for, where a pass happens to end."""
BOUNDARY_EVERY = 4096
"""Tokens after which whoever feeds a long prompt in pieces of its own asks for a point."""
BUDGET = 128 << 20
"""Bytes of all boundaries of one timeline; forks share theirs."""
LEAST_KEPT, MOST_KEPT = 16, 48
"""How many are kept whatever they take, and how many at most."""
_ASKED_FOR = 4.0
"""How much wider a gap may be before an asked-for point goes rather than a milestone."""


@dataclass(slots=True)
class _Kept:
    boundary: Boundary
    asked_for: bool

    @property
    def position(self) -> int:
        return self.boundary.position

    @property
    def nbytes(self) -> int:
        return self.boundary.nbytes + self.boundary.logits.nbytes


class Boundaries:
    """The kept boundaries of one timeline, in the order of their positions.

    Of too many, the one goes whose absence costs least: where it would leave the smallest gap for its
    distance from the end. So gaps grow with the distance, and returning by n tokens replays a part of n, not
    of the whole. The first and the last stay; points that were asked for stay longer than milestones.
    """

    def __init__(self, kept: tuple[_Kept, ...] = ()) -> None:
        self._kept = list(kept)

    def __iter__(self) -> Iterator[Boundary]:
        return iter(tuple(kept.boundary for kept in self._kept))

    def __len__(self) -> int:
        return len(self._kept)

    def copy(self) -> Boundaries:
        """The same boundaries for a fork."""
        return Boundaries(tuple(_Kept(kept.boundary, kept.asked_for) for kept in self._kept))

    def latest(self, position: int) -> Boundary | None:
        """The last boundary at or before ``position``."""
        return next((kept.boundary for kept in reversed(self._kept) if kept.position <= position), None)

    def ask_for(self, position: int) -> bool:
        """Whether there is a boundary exactly at ``position``; from now on it counts as asked for."""
        for kept in self._kept:
            if kept.position == position:
                kept.asked_for = True
                return True
        return False

    def drop_after(self, position: int) -> None:
        """Forget what lies beyond a break."""
        self._kept = [kept for kept in self._kept if kept.position <= position]

    def wants_milestone(self, position: int) -> bool:
        """Whether ``position`` lies far enough from the boundary before it to be kept unasked."""
        before = self.latest(position)
        return position - (0 if before is None else before.position) >= MILESTONE_EVERY

    def add(self, boundary: Boundary, *, asked_for: bool = True) -> None:
        """Keep one more point; one at the same position gives way."""
        self._kept = [kept for kept in self._kept if kept.position != boundary.position]
        self._kept.append(_Kept(boundary, asked_for))
        self._kept.sort(key=lambda kept: kept.position)
        while self._is_too_much():
            del self._kept[min(range(1, len(self._kept) - 1), key=self._loss)]

    def _is_too_much(self) -> bool:
        count = len(self._kept)
        return count > LEAST_KEPT and (count > MOST_KEPT or sum(kept.nbytes for kept in self._kept) > BUDGET)

    def _loss(self, index: int) -> float:
        """What is lost with an inner one: the gap that it would leave, for its distance from the end."""
        gap = self._kept[index + 1].position - self._kept[index - 1].position
        distance = self._kept[-1].position - self._kept[index].position + MILESTONE_EVERY
        return gap / distance * (_ASKED_FOR if self._kept[index].asked_for else 1.0)
