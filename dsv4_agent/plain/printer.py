"""Labelled lines: the one way in which text reaches the terminal. It makes all of it harmless."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from dsv4_agent.plain.labels import INDENT, Label
from dsv4_agent.workbench.plain_text import plain_line

_TAB = "    "


def harmless_lines(text: str, limit: int | None = None) -> list[str]:
    """The lines of a foreign text, each of them without control characters."""
    lines = text.replace("\r\n", "\n").split("\n")
    return [plain_line(line.replace("\t", _TAB), limit) for line in lines]


def folded(lines: Sequence[str], most: int) -> list[str]:
    """The first `most` lines, and how many more there are."""
    if len(lines) <= most:
        return list(lines)
    left = len(lines) - most
    return [*lines[:most], f"... {left:,} more {'line' if left == 1 else 'lines'}"]


class Printer:
    """Prints blocks; `owner` is what printed last, so that a stream knows when it was interrupted."""

    def __init__(self, write: Callable[[str], None]) -> None:
        """`write` takes whole lines."""
        self._write = write
        self.owner: object = None
        self.last = ""

    def sentence(self, text: str) -> None:
        """A line of our own words that needs no label."""
        self._emit([text])

    def say(self, label: Label, text: str, rest: Iterable[str] = ()) -> None:
        """A block: `text` behind the label, its further lines and those of `rest` below it."""
        first, *more = harmless_lines(text)
        indented = (INDENT + harmless for line in rest for harmless in harmless_lines(line))
        self._emit([f"{label}: {first}".rstrip(), *(INDENT + line for line in more), *indented])

    def more(self, owner: object, label: Label, lines: Iterable[str]) -> None:
        """Further lines of a stream: under its label as long as nothing else came between."""
        goes_on = self.owner is owner
        out: list[str] = []
        for line in lines:
            out += harmless_lines(line if goes_on else f"{label}: {line}")
            if goes_on:
                out[-1] = INDENT + out[-1]
            goes_on = True
        self._emit(out, owner)

    def _emit(self, lines: Sequence[str], owner: object = None) -> None:
        if not lines:
            return
        self.owner = owner
        kept = [line.rstrip() for line in lines]
        self.last = next((line for line in reversed(kept) if line), self.last)
        self._write("".join(f"{line}\n" for line in kept))
