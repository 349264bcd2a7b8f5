"""What the model had said of a turn that broke off: one line, the text where thinking is unfolded."""

from __future__ import annotations

from dataclasses import dataclass

from dsv4_agent.tui.transcript.frame import Frame
from dsv4_agent.tui.transcript.lines import estimate, text_rows
from dsv4_agent.tui.transcript.rows import Row, with_gutter
from dsv4_agent.tui.transcript.wrapping import cut
from dsv4_agent.workbench.plain_text import plain


@dataclass(frozen=True, slots=True)
class DroppedBlock:
    """Text that counts no more; the model does not know it. `what` is `thinking` or `answer`."""

    what: str
    said: str

    def rows(self, frame: Frame) -> list[Row]:
        """The header; below it the text where thinking is unfolded."""
        muted = frame.palette.muted
        rows: list[Row] = [Row(((cut(self._header, frame.inner), muted),), (("✗ ", muted),))]
        if frame.thinking:
            blank = (("  ", muted),)
            rows += with_gutter(text_rows(self.said.strip("\n"), muted, frame.prose), blank, blank)
        return rows

    def estimate(self, frame: Frame) -> int:
        """About how many rows."""
        return 1 + (estimate(self.said, frame.prose) if frame.thinking else 0)

    def text(self) -> str:
        """The text, marked as dropped."""
        return f"[dropped {self.what}]\n{plain(self.said.strip())}"

    @property
    def _header(self) -> str:
        return f"dropped: {self.what} of {len(self.said):,} characters"
