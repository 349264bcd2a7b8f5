"""The prompt history of both front ends, as prompt-toolkit wants it."""

from __future__ import annotations

from collections.abc import Iterable

from prompt_toolkit.history import History as ToolkitHistory

from dsv4_agent.chat.history import History


class Past(ToolkitHistory):
    """Reads and writes the shared history."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self._history = history

    def load_history_strings(self) -> Iterable[str]:
        """Newest first, those of this project before all others."""
        return self._history.browse()

    def store_string(self, string: str) -> None:
        """Keep a prompt."""
        self._history.add(string)
