"""The layout of all blocks for one frame: exact rows where somebody looks, estimated heights elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dsv4_agent.tui.transcript.blocks.block import Block
from dsv4_agent.tui.transcript.frame import Frame
from dsv4_agent.tui.transcript.heights import Heights
from dsv4_agent.tui.transcript.row_cache import RowCache
from dsv4_agent.tui.transcript.rows import BLANK, Row


@dataclass(frozen=True, slots=True)
class Place:
    """A place to read at that survives another width: a line of a block, and how far into the line."""

    block: int = 0
    line: int = 0
    part: float = 0.0


class Sheet:
    """Blocks one below the other, a blank row between them.

    Owns the row cache and the heights; `blocks` belongs to the caller and only grows or changes in place,
    which `changed` has to be told.
    """

    def __init__(self, blocks: Sequence[Block], frame: Frame) -> None:
        self._blocks = blocks
        self._frame = frame
        self._cache = RowCache()
        self._exact: set[int] = set()
        self.heights = Heights()

    @property
    def frame(self) -> Frame:
        """The frame of the present layout."""
        return self._frame

    def lay_out(self, frame: Frame) -> None:
        """Begin again with another frame: estimates everywhere."""
        self._frame = frame
        self._cache.clear()
        self._exact.clear()
        self.heights.reset(self._guess(index) for index in range(len(self._blocks)))

    def tick(self, now: float) -> None:
        """Another time, for durations that count on; the caller says which blocks show one."""
        frame = self._frame
        self._frame = Frame(frame.width, frame.palette, frame.detail, frame.thinking, now)

    def changed(self, index: int, *, near: bool) -> None:
        """Block `index` is new or another; where `near` the screen, its height is made exact at once."""
        self._cache.discard(index)
        self._exact.discard(index)
        while len(self.heights) <= index:
            self.heights.append(self._guess(len(self.heights)))
        if near:
            self.measure(index)
        else:
            self.heights.set(index, self._guess(index))

    def measure(self, index: int) -> int:
        """The exact height of a block."""
        if index not in self._exact:
            self.rows(index)
        return self.heights[index]

    def rows(self, index: int) -> list[Row]:
        """The rows of a block, the blank one above it not among them."""
        rows = self._cache.get(index)
        if rows is None:
            rows = self._blocks[index].rows(self._frame)
            self._cache.put(index, rows)
            self.heights.set(index, len(rows) + self._gap(index) if rows else 0)
            self._exact.add(index)
        return rows

    def row(self, index: int, number: int) -> Row:
        """Row `number` of a block, counted from the blank one above it."""
        rows = self.rows(index)
        inside = number - self._gap(index)
        return rows[inside] if 0 <= inside < len(rows) else BLANK

    def rows_with_gap(self, index: int) -> list[Row]:
        """All that `row` can give, for a copy; does not fill the cache."""
        rows = self._cache.get(index)
        if rows is None:
            rows = self._blocks[index].rows(self._frame)
        return [BLANK, *rows] if rows and self._gap(index) else list(rows)

    def measure_around(self, index: int, row: int, above: int, below: int) -> None:
        """Make the heights exact `above` and `below` so many rows around `row` of block `index`."""
        following, seen = index, -row
        while following < len(self.heights) and seen < below:
            seen += self.measure(following)
            following += 1
        previous, seen = index - 1, row
        while previous >= 0 and seen < above:
            seen += self.measure(previous)
            previous -= 1

    def place(self, index: int, row: int) -> Place:
        """The place of a row, in the frame of now."""
        if not 0 <= index < len(self.heights):
            return Place()
        rows = self.rows_with_gap(index)
        starts = [number for number, each in enumerate(rows) if each.joint == "\n" or number == 0]
        line = sum(start <= row for start in starts) - 1
        if line < 0:
            return Place(index)
        end = starts[line + 1] if line + 1 < len(starts) else len(rows)
        return Place(index, line, min((row - starts[line]) / max(end - starts[line], 1), 1.0))

    def row_of(self, place: Place) -> int:
        """The row within its block where `place` is, in the frame of now."""
        self.measure(place.block)
        rows = self.rows_with_gap(place.block)
        starts = [number for number, each in enumerate(rows) if each.joint == "\n" or number == 0]
        if not starts:
            return 0
        line = min(place.line, len(starts) - 1)
        end = starts[line + 1] if line + 1 < len(starts) else len(rows)
        return min(starts[line] + int(place.part * (end - starts[line]) + 0.5), max(end - 1, 0))

    def _gap(self, index: int) -> int:
        return 1 if index else 0

    def _guess(self, index: int) -> int:
        rows = self._blocks[index].estimate(self._frame)
        return rows + self._gap(index) if rows else 0
