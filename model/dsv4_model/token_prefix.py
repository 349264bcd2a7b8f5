"""How far two lists of tokens agree."""

from __future__ import annotations

from collections.abc import Sequence as Ids

__all__ = ["common_prefix"]


def common_prefix(a: Ids[int], b: Ids[int]) -> int:
    """How many tokens both begin with. Compares stretches, because a million single ones take long."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
