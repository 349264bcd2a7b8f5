"""Stop strings in a stream: nothing that may turn out to belong to one is shown too early."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopStrings"]


class StopStrings:
    """Watches a text for the first of several strings; they may come in any number of pieces."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(string for string in strings if string)
        self._held = ""
        self.hit: str | None = None

    def feed(self, text: str) -> str:
        """What may be shown of the text so far; nothing more once a string was met (`hit`)."""
        if self.hit is not None:
            return ""
        if not self._strings:
            return text
        whole = self._held + text
        found = [(whole.find(string), string) for string in self._strings if string in whole]
        if found:
            position, self.hit = min(found, key=lambda pair: pair[0])
            self._held = ""
            return whole[:position]
        kept = max(self._possible(whole, string) for string in self._strings)
        self._held = whole[len(whole) - kept :]
        return whole[: len(whole) - kept]

    def finish(self) -> str:
        """What was held back, when nothing follows."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _possible(text: str, string: str) -> int:
        """Length of the longest end of `text` that begins `string`."""
        longest = min(len(text), len(string) - 1)
        return next((n for n in range(longest, 0, -1) if text.endswith(string[:n])), 0)
