"""The merges of BPE: the pair of neighbours that was learnt first becomes one token, until no pair does.

In a vocabulary in which ids ascend in the order of the merges, as DeepSeek-V4's do, a merge's rank *is* its
token's id. So a table from pairs to ids is all that is needed (Sennrich et al., 2016, algorithm 1).
"""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import Final

ID_BITS: Final = 20
"""Ids stay below ``1 << ID_BITS``: a pair and what becomes of it fit into 64 bits."""
NO_MERGE: Final = 1 << ID_BITS
_SHORT: Final = 128
"""Longest word that is merged by looking at all its pairs each time."""
_REMEMBERED: Final = 1 << 15
_GOLDEN: Final = 0x9E3779B97F4A7C15  # 2 ** 64 over the golden ratio: Fibonacci hashing
_MASK: Final = (1 << 64) - 1


def pair_of(left: int, right: int) -> int:
    """The key of two neighbours."""
    return left << ID_BITS | right


class PairTable(dict[int, int]):
    """Key of a pair to the id of its merge, or `NO_MERGE`: a hash table of 64-bit slots behind a dict.

    ``slots`` has a power of two of them, ``pair << ID_BITS | id`` or 0, with linear probing.
    """

    def __init__(self, slots: Sequence[int]) -> None:
        super().__init__()
        self._slots = slots
        self._last = len(slots) - 1
        self._shift = 64 - self._last.bit_length()

    def __missing__(self, pair: int) -> int:
        place = (pair * _GOLDEN & _MASK) >> self._shift
        merged = NO_MERGE
        while slot := self._slots[place]:
            if slot >> ID_BITS == pair:
                merged = slot & (NO_MERGE - 1)
                break
            place = place + 1 & self._last
        if len(self) >= _REMEMBERED:
            self.clear()
        self[pair] = merged
        return merged


def fill(slots: MutableSequence[int], pair: int, merged: int) -> None:
    """Put a pair into ``slots``, of which at least one must be free."""
    last = len(slots) - 1
    place = (pair * _GOLDEN & _MASK) >> 64 - last.bit_length()
    while slots[place]:
        place = place + 1 & last
    slots[place] = pair << ID_BITS | merged


def merged(ids: list[int], pairs: PairTable) -> list[int]:
    """The tokens of a word, from the tokens of its bytes."""
    if len(ids) > _SHORT:
        return _merged_long(ids, pairs)
    ranks = [pairs[left << ID_BITS | right] for left, right in pairwise(ids)]
    while ranks and (lowest := min(ranks)) != NO_MERGE:
        at = ranks.index(lowest)
        ids[at : at + 2] = [lowest]
        del ranks[at]
        if at < len(ranks):
            ranks[at] = pairs[lowest << ID_BITS | ids[at + 1]]
        if at:
            ranks[at - 1] = pairs[ids[at - 1] << ID_BITS | lowest]
    return ids


def _merged_long(ids: list[int], pairs: PairTable) -> list[int]:
    """The same in O(n log n), for a line of a thousand spaces or a megabyte without any."""
    after = list(range(1, len(ids) + 1))
    before = list(range(-1, len(ids) - 1))
    waiting = [
        (rank, at) for at, pair in enumerate(pairwise(ids)) if (rank := pairs[pair_of(*pair)]) != NO_MERGE
    ]
    heapify(waiting)
    gone = -1
    while waiting:
        rank, at = heappop(waiting)
        right = after[at]
        if ids[at] == gone or right == len(ids) or pairs[pair_of(ids[at], ids[right])] != rank:
            continue  # one of the two has become part of something else
        ids[at], ids[right] = rank, gone
        beyond = after[at] = after[right]
        if beyond < len(ids):
            before[beyond] = at
            if (rank := pairs[pair_of(ids[at], ids[beyond])]) != NO_MERGE:
                heappush(waiting, (rank, at))
        if (left := before[at]) >= 0 and (rank := pairs[pair_of(ids[left], ids[at])]) != NO_MERGE:
            heappush(waiting, (rank, left))
    return [id for id in ids if id != gone]
