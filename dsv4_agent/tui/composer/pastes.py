"""Pasted text is folded into a chip when there is much of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from dsv4_agent.chat.pasted import clean

LINES: Final = 8
CHARACTERS: Final = 1_000
"""A paste with more lines or characters than these becomes a chip."""

_CHIP: Final = re.compile(r"\[paste #(\d+): [\d,]+ (?:lines?|characters)\]")


class Pastes:
    """The chips of one draft and the texts behind them."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def fold(self, text: str) -> str:
        """A chip that stands for `text` if that is long, else `text` itself."""
        lines = text.count("\n") + (not text.endswith("\n"))
        if lines <= LINES and len(text) <= CHARACTERS:
            return text
        return self.chip(text)

    def chip(self, text: str) -> str:
        """A new chip that stands for `text`."""
        lines = text.count("\n") + (not text.endswith("\n"))
        number = 1 + max((int(found[1]) for chip in self._texts if (found := _CHIP.match(chip))), default=0)
        size = f"{lines:,} lines" if lines > 1 else f"{len(text):,} characters"
        chip = f"[paste #{number}: {size}]"
        self._texts[chip] = text
        return chip

    def expand(self, text: str) -> str:
        """`text` with what stands behind its chips; chips within a pasted text mean nothing."""
        return _CHIP.sub(lambda found: self._texts.get(found[0], found[0]), text)

    def spans(self, line: str) -> Iterator[tuple[int, int]]:
        """Where the chips are in a line."""
        if not self._texts:
            return
        for found in _CHIP.finditer(line):
            if found[0] in self._texts:
                yield found.span()

    def used(self, text: str) -> Mapping[str, str]:
        """The chips of `text` with what stands behind them."""
        return {found[0]: self._texts[found[0]] for found in _CHIP.finditer(text) if found[0] in self._texts}

    def restore(self, texts: Mapping[str, str]) -> None:
        """Take over the chips of a draft that was kept."""
        self._texts = {chip: clean(text).text for chip, text in texts.items() if _CHIP.fullmatch(chip)}

    def forget(self) -> None:
        """Begin a new draft."""
        self._texts.clear()
