"""What Tab can complete: commands, their arguments, and mentioned files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from dsv4_agent.chat.fuzzy import Candidates
from dsv4_agent.chat.mentions import MentionIndex, written
from dsv4_agent.workbench.plain_text import plain_line

_LIMIT = 50
_LISTING_SECONDS = 0.5
_MENTION = re.compile(r"""(?:^|(?<=[\s(\[{<'",;:]))@"?([^\s"]*)$""")
_COMMAND = re.compile(r"/([\w:.-]*)")
_ARGUMENT = re.compile(r"/([A-Za-z][\w:.-]*)[ \t]+(.*)")


class ChatCompleter(Completer):
    """As a shell completes: what begins with the letters comes before what merely holds them."""

    def __init__(
        self,
        names: Sequence[str],
        arguments: Callable[[str, str], Sequence[str]],
        index: MentionIndex,
    ) -> None:
        self._names = Candidates(names)
        self._arguments = arguments
        self._index = index

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Everything that fits at the cursor."""
        before = document.text_before_cursor
        if (found := _MENTION.search(before)) is not None:
            start = found.start() - len(before)
            return [_completion(written(path), start) for path in self._files(found[1])]
        if (found := _COMMAND.fullmatch(before)) is not None:
            names = _best(found[1], [match.text for match in self._names.search(found[1], _LIMIT)])
            return [_completion(f"/{name}", -len(before)) for name in names]
        if (found := _ARGUMENT.fullmatch(before)) is not None:
            values = self._arguments(found[1], found[2])[:_LIMIT]
            return [_completion(value, -len(found[2])) for value in values if plain_line(value) == value]
        return []

    def _files(self, query: str) -> Sequence[str]:
        self._index.refresh()
        if self._index.snapshot is None:
            self._index.wait(_LISTING_SECONDS)
        return _best(query, [match.text for match in self._index.search(query, _LIMIT)])


def _best(query: str, matches: Sequence[str]) -> Sequence[str]:
    return [text for text in matches if text.startswith(query)] or matches


def _completion(text: str, start: int) -> Completion:
    return Completion(text, start_position=start, display=plain_line(text))
