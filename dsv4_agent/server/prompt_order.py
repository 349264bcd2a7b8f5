"""Whose prompt goes on next: each step feeds few prompt tokens, so the order is what fairness is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["Feeding", "prompt_order"]


class Feeding(Protocol):
    """A turn whose prompt may not be fed whole yet."""

    @property
    def missing(self) -> int:
        """Prompt tokens that are still to be computed."""
        ...

    @property
    def fed(self) -> int:
        """The step at which its prompt last went on, or at which it joined."""
        ...


def prompt_order(feeding: Sequence[Feeding], step: int) -> list[int]:
    """Indices of `feeding` in the order in which they shall be fed at `step`.

    On even steps the shortest goes first, so that a short prompt is answered after two steps at most while
    long ones are read; on odd steps the one that has waited longest, so that any number of short ones leaves
    a long prompt every second step.
    """
    indices = range(len(feeding))
    if step % 2:
        return sorted(indices, key=lambda i: (feeding[i].fed, feeding[i].missing))
    return sorted(indices, key=lambda i: (feeding[i].missing, feeding[i].fed))
