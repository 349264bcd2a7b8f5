"""What the user said: a bar at the left, the text as it was typed."""

from __future__ import annotations

from dataclasses import dataclass

from dsv4_agent.tui.transcript.frame import Frame
from dsv4_agent.tui.transcript.lines import estimate, text_rows
from dsv4_agent.tui.transcript.rows import Row, with_gutter
from dsv4_agent.workbench.plain_text import plain


@dataclass(frozen=True, slots=True)
class UserBlock:
    """A user turn."""

    said: str

    def rows(self, frame: Frame) -> list[Row]:
        """Every line behind the bar."""
        bar = (("▌ ", frame.palette.user_bar),)
        return with_gutter(text_rows(self.said.rstrip("\n"), frame.palette.user, frame.prose), bar, bar)

    def estimate(self, frame: Frame) -> int:
        """About how many rows."""
        return max(estimate(self.said, frame.prose), 1)

    def text(self) -> str:
        """The turn, marked as the user's."""
        return "\n".join(f"> {line}" for line in plain(self.said.rstrip("\n")).split("\n"))
