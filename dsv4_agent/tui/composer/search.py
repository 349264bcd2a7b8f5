"""Incremental search in the prompt history."""

from __future__ import annotations

from dsv4_agent.chat.history import History
from dsv4_agent.tui.composer.completion import LIMIT, Option

_WIDTH = 300


class HistorySearch:
    """What is looked for, and what was found."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.query = ""

    def type(self, text: str) -> None:
        r"""Change the query: a backspace (`\b`) takes a character, nothing at all takes everything."""
        match text:
            case "":
                self.query = ""
            case "\b":
                self.query = self.query[:-1]
            case _:
                self.query += text

    def options(self) -> tuple[Option, ...]:
        """The prompts that hold the query, newest first."""
        return tuple(self._option(prompt) for prompt in self._history.search(self.query)[:LIMIT])

    def _option(self, prompt: str) -> Option:
        """One line that shows where the query was found."""
        found = prompt.find(self.query)
        if found < 0:
            found = max(0, prompt.lower().find(self.query))
        start = prompt.rfind("\n", 0, found) + 1
        start = max(start, found - _WIDTH // 2)
        end = prompt.find("\n", start)
        line = prompt[start : end if end >= 0 else None][:_WIDTH]
        more = "" if len(line) == len(prompt) else " …"
        positions = range(found - start, min(found - start + len(self.query), len(line)))
        return Option(line + more, prompt, positions=tuple(positions))
