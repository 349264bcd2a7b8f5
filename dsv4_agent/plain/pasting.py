"""What was pasted into a prompt is remembered, so that it commands nothing."""

from __future__ import annotations


class Pastes:
    """The pastes of the text that is being written."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._start = False

    def add(self, text: str, *, at_start: bool) -> None:
        """`text` was pasted; `at_start`: as the first thing."""
        self._texts.append(text)
        self._start = self._start or at_start

    def begins(self, text: str) -> bool:
        """Whether the first characters of `text` were pasted."""
        return self._start and any(pasted and text.startswith(pasted[:1]) for pasted in self._texts)

    def own(self, text: str) -> str:
        """`text` without what was pasted and still stands there as it was."""
        for pasted in self._texts:
            text = text.replace(pasted, " ", 1)
        return text

    def restore(self, *, at_start: bool) -> None:
        """Begin with a draft."""
        self._texts.clear()
        self._start = at_start

    def forget(self) -> None:
        """Begin anew."""
        self.restore(at_start=False)
