"""The way through the history with the arrow keys, from the draft and back to it."""

from __future__ import annotations

from collections.abc import Callable

from dsv4_agent.chat.history import Browser, History
from dsv4_agent.tui.composer.area import DraftArea


class HistoryWalk:
    """Begins with the first step back and ends at the draft, or when the draft becomes another."""

    def __init__(self, history: History, area: DraftArea, show: Callable[[str, bool], None]) -> None:
        """`show` puts a prompt into the box, with the cursor at its top if the second argument says so."""
        self._history = history
        self._area = area
        self._show = show
        self._browser: Browser | None = None
        self._draft_was_pasted = False

    @property
    def begun(self) -> bool:
        """Whether the box shows a prompt of the history."""
        return self._browser is not None and not self._browser.at_draft

    def older(self) -> None:
        """Show the next older prompt, if there is one."""
        if self._browser is None:
            self._browser = Browser(self._history.browse(), self._area.text)
            self._draft_was_pasted = self._area.pasted_start
        prompt = self._browser.older(self._area.text)
        if prompt is not None:
            self._show(prompt, True)

    def newer(self) -> None:
        """Show the next newer prompt, and at last the draft as it was."""
        if self._browser is None:
            return
        prompt = self._browser.newer(self._area.text)
        if prompt is None:
            return
        self._show(prompt, False)
        if self._browser.at_draft:
            if self._draft_was_pasted:
                self._area.mark_pasted_start()
            self.end()

    def end(self) -> None:
        """What is in the box now is the draft."""
        self._browser = None
