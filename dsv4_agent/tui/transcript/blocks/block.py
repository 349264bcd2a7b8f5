"""What every block can do."""

from __future__ import annotations

from typing import Protocol

from dsv4_agent.tui.transcript.frame import Frame
from dsv4_agent.tui.transcript.rows import Row


class Block(Protocol):
    """One entry of the transcript. A block without rows takes no room."""

    def rows(self, frame: Frame) -> list[Row]:
        """The block as it is drawn."""
        ...

    def estimate(self, frame: Frame) -> int:
        """About how many rows that is; cheap, 0 only where `rows` is empty."""
        ...

    def text(self) -> str:
        """The block as harmless plain text, unfolded and not wrapped."""
        ...
