"""Rows of the blocks that were drawn lately; the oldest go when there are too many."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from dsv4_agent.tui.transcript.rows import Row

_MOST_ROWS: Final = 8_000
_LEAST_BLOCKS: Final = 24


class RowCache:
    """An LRU bounded by rows, so that a few huge blocks do not count like a few small ones."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[int, list[Row]] = OrderedDict()
        self._sizes: dict[int, int] = {}
        self._total = 0

    def __len__(self) -> int:
        return len(self._blocks)

    def get(self, index: int) -> list[Row] | None:
        """The rows of a block, which thereby counts as used."""
        rows = self._blocks.get(index)
        if rows is not None:
            self._blocks.move_to_end(index)
        return rows

    def put(self, index: int, rows: list[Row]) -> None:
        """Keep the rows of a block."""
        self.discard(index)
        self._blocks[index] = rows
        self._sizes[index] = len(rows)
        self._total += len(rows)
        while self._total > _MOST_ROWS and len(self._blocks) > _LEAST_BLOCKS:
            self.discard(next(iter(self._blocks)))

    def discard(self, index: int) -> None:
        """Forget a block that changed."""
        if self._blocks.pop(index, None) is not None:
            self._total -= self._sizes.pop(index)

    def clear(self) -> None:
        """Forget all."""
        self._blocks.clear()
        self._sizes.clear()
        self._total = 0
