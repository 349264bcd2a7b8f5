"""What the counted choices of experts say: load and entropy by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

__all__ = ["LayerRouting", "routing"]


@dataclass(frozen=True, slots=True)
class LayerRouting:
    """One layer's routing.

    Attributes:
        layer: its number; the MTP block's comes after the main ones.
        counts: how many (token, slot) pairs each expert took.
        entropy: of the shares, in bits; at most log2 of the number of experts.
        busiest: the greatest share times the number of experts: 1 is perfect balance.
        unused: experts that took nothing.
    """

    layer: int
    counts: tuple[int, ...]
    entropy: float
    busiest: float
    unused: int

    @property
    def evenness(self) -> float:
        """Entropy as a share of the greatest possible, 0 to 1."""
        return self.entropy / math.log2(len(self.counts)) if len(self.counts) > 1 else 1.0


def routing(counts: Tensor) -> list[LayerRouting]:
    """Statistics of every layer of `Engine.expert_counts` ``[layers + 1, experts]`` that took any token."""
    found = []
    for number, row in enumerate(counts.tolist()):
        total = sum(row)
        if not total:
            continue
        shares = [count / total for count in row if count]
        entropy = -sum(share * math.log2(share) for share in shares)
        busiest = max(row) / total * len(row)
        found.append(LayerRouting(number, tuple(row), entropy, busiest, row.count(0)))
    return found
