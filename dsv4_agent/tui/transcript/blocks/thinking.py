"""The model's thinking: one line when folded, with a rolling preview while it streams."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from dsv4_agent.tui.transcript.blocks.durations import duration
from dsv4_agent.tui.transcript.frame import Frame
from dsv4_agent.tui.transcript.lines import estimate, text_rows
from dsv4_agent.tui.transcript.live import LiveText, ended
from dsv4_agent.tui.transcript.rows import Row, with_gutter
from dsv4_agent.tui.transcript.wrapping import cut
from dsv4_agent.workbench.plain_text import plain

_PREVIEW: Final = 3


@dataclass(frozen=True, slots=True)
class ThinkingBlock:
    """Finished thinking; `seconds` is None where nobody measured it (a resumed session)."""

    thought: str
    tokens: int = 0
    seconds: float | None = None

    def rows(self, frame: Frame) -> list[Row]:
        """The header; below it all of the thinking where it is unfolded."""
        if not self.thought and not self.tokens:
            return []
        took = duration(self.seconds)
        words = [f"thought for {took}" if took else "thought"]
        if self.tokens:
            words.append(_tokens(self.tokens))
        rows = [_header(" · ".join(words), frame)]
        if frame.thinking:
            style, blank = frame.palette.muted, (("  ", frame.palette.muted),)
            rows += with_gutter(text_rows(self.thought.strip("\n"), style, frame.prose), blank, blank)
        return rows

    def estimate(self, frame: Frame) -> int:
        """About how many rows."""
        if not self.thought and not self.tokens:
            return 0
        return 1 + (estimate(self.thought, frame.prose) if frame.thinking else 0)

    def text(self) -> str:
        """The thinking."""
        return f"[thinking]\n{plain(self.thought.strip())}" if self.thought else ""


@dataclass(slots=True)
class LiveThinking:
    """Thinking under way since `started` (monotonic seconds)."""

    started: float
    live: LiveText = field(default_factory=LiveText)

    def rows(self, frame: Frame) -> list[Row]:
        """The header with time and tokens so far, and the last rows (unfolded: all rows)."""
        words = ["thinking…"]
        if took := duration(frame.now - self.started):
            words.append(took)
        if self.live.characters:
            words.append(f"~{_tokens(self._tokens)}")
        header = _header(words[0] + (" " + " · ".join(words[1:]) if words[1:] else ""), frame)
        style = frame.palette.muted
        rows = self.live.rows(frame.prose, style, (("  ", style),), (header,))
        return rows if frame.thinking else [header, *ended(rows, min(_PREVIEW, len(rows) - 1))]

    def estimate(self, frame: Frame) -> int:
        """About how many rows."""
        return 1 + estimate(self.live.text, frame.prose, None if frame.thinking else _PREVIEW)

    def text(self) -> str:
        """The thinking so far."""
        return ThinkingBlock(self.live.text).text()

    @property
    def _tokens(self) -> int:
        # Token backends send a delta a token; servers send bigger pieces, where characters tell more.
        return max(self.live.deltas, self.live.characters // 4)


def _header(words: str, frame: Frame) -> Row:
    muted = frame.palette.muted
    return Row(((cut(words, frame.inner), muted),), (("◇ ", muted),))


def _tokens(count: int) -> str:
    return f"{count:,} token{'' if count == 1 else 's'}"
