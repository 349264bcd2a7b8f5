"""What opens above the text: completions of the word at the cursor, or the search in the history."""

from __future__ import annotations

from collections.abc import Callable

from dsv4_agent.chat.history import History
from dsv4_agent.tui.composer.area import DraftArea
from dsv4_agent.tui.composer.completion import Completer, Kind, Option, Request, request_at
from dsv4_agent.tui.composer.popup import OptionPopup
from dsv4_agent.tui.composer.search import HistorySearch
from dsv4_agent.workbench.plain_text import plain_line


class Assist:
    """At most one of the two is open; letters go to the draft or, during a search, to the query."""

    def __init__(
        self,
        area: DraftArea,
        popup: OptionPopup,
        completer: Completer,
        history: History,
        changed: Callable[[], None],
    ) -> None:
        """`changed` is called when something opens, changes or closes."""
        self._area = area
        self._popup = popup
        self._completer = completer
        self._history = history
        self._changed = changed
        self._request: Request | None = None
        self._search: HistorySearch | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is something for Esc to close."""
        return self._search is not None or self._request is not None

    @property
    def is_searching(self) -> bool:
        """Whether letters go to the history search."""
        return self._search is not None

    @property
    def hint(self) -> str:
        """What is being looked for in the history."""
        if self._search is None:
            return ""
        return f"history: {plain_line(self._search.query, 60)}▏  Enter takes, Ctrl+R older, Esc back"

    @property
    def wants_enter(self) -> bool:
        """Whether Enter takes something here: not where the word already is what would come of it."""
        return self.is_searching or (self._popup.option is not None and not self._is_complete())

    def close(self) -> None:
        """Close whatever is open."""
        self._request = self._search = None
        self._area.diverted = None
        self._popup.close()
        self._changed()

    def take(self) -> str | None:
        """Take the highlighted option or the first: complete the word, or return the prompt found."""
        if self._popup.option is None:
            self._popup.move(1)
        option, request, searching = self._popup.option, self._request, self.is_searching
        self.close()
        if option is None:
            return None
        if searching:
            return option.insert
        if request is not None:
            self._complete(option, request)
        return None

    def search(self) -> None:
        """Open the search in the history, or go on to an older prompt."""
        if self.is_searching:
            self._popup.move(1)
            return
        self.close()
        self._search = HistorySearch(self._history)
        self._area.diverted = self._type
        self._show_found()

    def complete(self) -> None:
        """Offer what fits at the cursor, or close."""
        if self.is_searching:
            return
        request = self._request_at_cursor()
        options = () if request is None else self._completer.options(request)
        notice = "" if request is None else self._completer.notice(request)
        if request is None or not (options or notice):
            self.close()
            return
        self._request = request
        # A command may need no argument: Enter then sends it, unless the user chose one.
        unasked = request.kind is Kind.ARGUMENT and not request.query
        self._popup.show(options, highlighted=None if unasked else 0, notice=notice)

    def cursor_moved(self) -> None:
        """Follow the cursor to another word."""
        if self._request is not None and self._request_at_cursor() != self._request:
            self.complete()

    def files_listed(self) -> None:
        """The index of files is new."""
        if self._request is not None and self._request.kind is Kind.FILE:
            self.complete()

    def _type(self, text: str) -> None:
        if self._search is not None:
            self._search.type(text)
            self._show_found()

    def _show_found(self) -> None:
        if self._search is not None:
            options = self._search.options()
            self._popup.show(options, notice="" if options else "nothing found")
            self._changed()

    def _complete(self, option: Option, request: Request) -> None:
        row, column = self._area.cursor_location
        self._area.typed = option.again
        start = (row, request.start)
        self._area.replace(option.insert, start, (row, column), maintain_selection_offset=False)

    def _is_complete(self) -> bool:
        option, request = self._popup.option, self._request
        if option is None or request is None:
            return False
        row, column = self._area.cursor_location
        word = self._area.document.get_line(row)[request.start : column]
        return word == option.insert.rstrip()

    def _request_at_cursor(self) -> Request | None:
        row, column = self._area.cursor_location
        if not self._area.selection.is_empty or (row == 0 and self._area.pasted_start):
            return None
        return request_at(row, self._area.document.get_line(row)[:column])
