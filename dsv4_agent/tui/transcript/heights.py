"""The heights of many blocks, with fast sums: where a block starts, and which block covers a row."""

from __future__ import annotations

from collections.abc import Iterable


class Heights:
    """Heights in rows by block number (a Fenwick tree): every operation but `reset` is logarithmic."""

    def __init__(self) -> None:
        self._heights: list[int] = []
        self._tree: list[int] = [0]

    def __len__(self) -> int:
        return len(self._heights)

    def __getitem__(self, index: int) -> int:
        return self._heights[index]

    def reset(self, heights: Iterable[int]) -> None:
        """Replace all heights."""
        self._heights = list(heights)
        self._tree = [0, *self._heights]
        for position in range(1, len(self._tree)):
            parent = position + (position & -position)
            if parent < len(self._tree):
                self._tree[parent] += self._tree[position]

    def append(self, height: int) -> None:
        """Add a block at the end."""
        self._heights.append(height)
        position = len(self._heights)
        low = position & -position
        self._tree.append(self.start(position - 1) + height - self.start(position - low))

    def set(self, index: int, height: int) -> None:
        """Change the height of a block."""
        change = height - self._heights[index]
        if not change:
            return
        self._heights[index] = height
        position = index + 1
        while position < len(self._tree):
            self._tree[position] += change
            position += position & -position

    def start(self, index: int) -> int:
        """The first row of block `index`; with the number of blocks, the number of all rows."""
        total, position = 0, index
        while position > 0:
            total += self._tree[position]
            position -= position & -position
        return total

    @property
    def total(self) -> int:
        """All rows."""
        return self.start(len(self._heights))

    def find(self, row: int) -> tuple[int, int]:
        """Block that covers `row`, and the row within it; the last block and its end beyond all rows."""
        position, step = 0, 1 << len(self._heights).bit_length()
        left = max(row, 0)
        while step:
            following = position + step
            if following < len(self._tree) and self._tree[following] <= left:
                position = following
                left -= self._tree[following]
            step >>= 1
        if position >= len(self._heights):
            return (len(self._heights) - 1, self._heights[-1]) if self._heights else (0, 0)
        return position, left
