"""A text that comes in pieces, printed by whole lines."""

from __future__ import annotations

from dsv4_agent.plain.labels import Label
from dsv4_agent.plain.printer import Printer


class LineStream:
    """One thought or answer. What is printed can't be taken back, so a line waits until it is complete.

    Blank lines wait for a line with words: those at the beginning and at the end say nothing.
    """

    def __init__(self, printer: Printer, label: Label) -> None:
        self._printer = printer
        self._label = label
        self._received = ""
        self._partial = ""
        self._blank = 0
        self._begun = False

    def feed(self, text: str) -> None:
        """More of the text."""
        self._received += text
        *whole, self._partial = (self._partial + text).split("\n")
        self._print(whole)

    def end(self, text: str) -> None:
        """The text is complete; what of it never came as a piece is printed now."""
        if text.startswith(self._received):
            self.feed(text[len(self._received) :])
        self._print([self._partial])
        self._partial = ""

    def _print(self, lines: list[str]) -> None:
        out: list[str] = []
        for line in lines:
            line = line.removesuffix("\r")
            if not line.strip():
                self._blank += self._begun
                continue
            out += [""] * self._blank + [line if self._begun else line.lstrip()]
            self._blank, self._begun = 0, True
        self._printer.more(self, self._label, out)
