"""A line from the application itself: information, a warning, an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dsv4_agent.tui.transcript.frame import Frame
from dsv4_agent.tui.transcript.lines import estimate, text_rows
from dsv4_agent.tui.transcript.rows import Row, with_gutter
from dsv4_agent.workbench.plain_text import plain

_SIGNS: Final = {"info": "·", "warning": "!", "error": "✗"}


@dataclass(frozen=True, slots=True)
class NoticeBlock:
    """`kind` is info, warning or error; anything else is shown as info."""

    kind: str
    said: str

    def rows(self, frame: Frame) -> list[Row]:
        """Sign and text; warnings and errors say so in words as well."""
        palette = frame.palette
        sign_style, style = {
            "warning": (palette.warning, palette.warning),
            "error": (palette.error, palette.error),
        }.get(self.kind, (palette.info, palette.muted))
        sign = ((f"{_SIGNS.get(self.kind, '·')} ", sign_style),)
        return with_gutter(text_rows(self._worded, style, frame.prose), sign, (("  ", style),))

    def estimate(self, frame: Frame) -> int:
        """About how many rows."""
        return estimate(self._worded, frame.prose)

    def text(self) -> str:
        """The notice in words."""
        return plain(self._worded)

    @property
    def _worded(self) -> str:
        said = self.said.rstrip("\n")
        return f"{self.kind}: {said}" if self.kind in ("warning", "error") else said or "·"
