"""What a terminal needs of the chat that is made after it."""

from __future__ import annotations

from collections.abc import Sequence

from dsv4_agent.chat.options import ChatOptions
from dsv4_agent.plain.labels import Label
from dsv4_agent.plain.printer import Printer
from dsv4_agent.plain.talk import Talk


class Parts:
    """`talk` and `printer` are there before the first key is read."""

    def __init__(self, options: ChatOptions) -> None:
        self.options = options
        self.talk: Talk | None = None
        self.printer: Printer | None = None

    def cycle_mode(self) -> None:
        """Go to the next permission mode."""
        if self.talk is not None:
            self.talk.cycle_mode()

    def complete(self, command: str, prefix: str) -> Sequence[str]:
        """Arguments of a command that begin with `prefix`."""
        return () if self.talk is None else self.talk.complete(command, prefix)

    def tell(self, label: Label, lines: list[str]) -> None:
        """Print lines that a key has asked for."""
        if self.printer is not None and lines:
            self.printer.say(label, lines[0], lines[1:])
