"""A `!` line: a command that the user ran, and what it printed."""

from __future__ import annotations

from dataclasses import dataclass

from dsv4_agent.tui.transcript.blocks.card import Card, State, card_rows
from dsv4_agent.tui.transcript.frame import Frame
from dsv4_agent.tui.transcript.lines import estimate
from dsv4_agent.tui.transcript.rows import Row
from dsv4_agent.workbench.plain_text import plain


@dataclass(frozen=True, slots=True)
class ShellBlock:
    """`exit_code` is None where the command did not end by itself."""

    command: str
    output: str
    exit_code: int | None

    def rows(self, frame: Frame) -> list[Row]:
        """Drawn as a tool card, marked as the user's own by the `!`."""
        return card_rows(self._card, frame)

    def estimate(self, frame: Frame) -> int:
        """About how many rows."""
        return 1 + estimate(self.output, frame.inner, frame.detail.value)

    def text(self) -> str:
        """Command and output."""
        return plain(f"! {self.command}\n{self.output}".rstrip("\n"))

    @property
    def _card(self) -> Card:
        code = self.exit_code
        state = State.STOPPED if code is None else State.DONE if code == 0 else State.FAILED
        return Card(
            state, "!", self.command, facts=() if code is None else (f"exit {code}",), output=self.output
        )
