"""What the model says: plain text while it streams, Markdown once it is complete."""

from __future__ import annotations

from dataclasses import dataclass, field

from dsv4_agent.tui.transcript.frame import Frame
from dsv4_agent.tui.transcript.lines import estimate, text_rows
from dsv4_agent.tui.transcript.live import LiveText
from dsv4_agent.tui.transcript.rows import Row, with_gutter
from dsv4_agent.workbench.plain_text import plain


@dataclass(frozen=True, slots=True)
class AnswerBlock:
    """A finished answer."""

    said: str

    def rows(self, frame: Frame) -> list[Row]:
        """The Markdown laid out; what is too big or too deep for that, as plain text."""
        # Loaded here, so that the first screen does not wait for a Markdown parser.
        from dsv4_agent.tui.transcript.markdown.document import is_suited, markdown_rows

        if not self.said.strip():
            return []
        blank = (("  ", frame.palette.text),)
        said = plain(self.said.strip("\n"))
        if is_suited(said):
            rows = markdown_rows(said, frame.prose, frame.palette)
            if rows:
                return with_gutter(rows, blank, blank)
        return with_gutter(text_rows(said, frame.palette.text, frame.prose), blank, blank)

    def estimate(self, frame: Frame) -> int:
        """About how many rows."""
        return estimate(self.said, frame.prose) if self.said.strip() else 0

    def text(self) -> str:
        """The Markdown source."""
        return plain(self.said.strip("\n"))


@dataclass(slots=True)
class LiveAnswer:
    """An answer under way."""

    live: LiveText = field(default_factory=LiveText)

    def rows(self, frame: Frame) -> list[Row]:
        """The text so far. The list changes with the next call."""
        return self.live.rows(frame.prose, frame.palette.text, (("  ", frame.palette.text),))

    def estimate(self, frame: Frame) -> int:
        """About how many rows."""
        return estimate(self.live.text, frame.prose)

    def text(self) -> str:
        """The text so far."""
        return plain(self.live.text.strip("\n"))
