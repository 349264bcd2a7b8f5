"""Reasoning that a server leaves inside the content, between `<think>` and `</think>`.

Servers without a reasoning parser do that; where the chat template opens the thought itself, only the closing
tag arrives.
"""

from __future__ import annotations

from enum import Enum, auto

from dsv4_agent.backends.base import SampledReasoning, SampledText
from dsv4_agent.dsml.dialect import END_THINK, THINK
from dsv4_agent.dsml.prose import LineTracker

Piece = SampledReasoning | SampledText


class _State(Enum):
    START = auto()
    THINKING = auto()
    ANSWER = auto()


class InlineThinking:
    """Tells reasoning and answer of one turn's content apart.

    `opened`: the template opens the thought, so that the content begins inside it. `unopened` tells
    afterwards that a closing tag came without an opening one: the next turn should be read with `opened`.
    """

    def __init__(self, *, opened: bool = False) -> None:
        self.unopened = False
        self._state = _State.THINKING if opened else _State.START
        self._held = ""
        self._lines = LineTracker()
        self._tail = ""

    def reasoning_came(self) -> None:
        """The server tells reasoning apart itself: all content is the answer."""
        self._state = _State.ANSWER

    def feed(self, text: str) -> list[Piece]:
        """More content."""
        pieces: list[Piece] = []
        text, self._held = self._held + text, ""
        if self._state is _State.START:
            begin = text.lstrip()
            if THINK.startswith(begin[: len(THINK)]) and len(begin) < len(THINK):
                self._held = text
                return []
            self._state = _State.THINKING if begin.startswith(THINK) else _State.ANSWER
            text = begin.removeprefix(THINK) if self._state is _State.THINKING else text
        if self._state is _State.THINKING:
            thought, tag, rest = text.partition(END_THINK)
            if not tag:
                kept = _overlap(text, END_THINK)
                thought, self._held = text[: len(text) - kept], text[len(text) - kept :]
            else:
                self._state = _State.ANSWER
            if thought:
                pieces.append(SampledReasoning(thought))
            text = rest
        if text:
            self._watch(text)
            pieces.append(SampledText(text))
        return pieces

    def finish(self) -> list[Piece]:
        """What was held back for a tag that never became one."""
        held, self._held = self._held, ""
        if not held:
            return []
        return [SampledReasoning(held) if self._state is _State.THINKING else SampledText(held)]

    def _watch(self, text: str) -> None:
        """Look for a closing tag that stands in no quotation."""
        if self.unopened:
            return
        joined = self._tail + text
        found = joined.find(END_THINK)
        if found >= 0:
            self._lines.advance(joined[:found])
            self.unopened = not self._lines.fenced and self._lines.last != "`"
            self._tail = ""
            return
        kept = _overlap(joined, END_THINK)
        self._lines.advance(joined[: len(joined) - kept])
        self._tail = joined[len(joined) - kept :]


def _overlap(text: str, tag: str) -> int:
    """How many characters at the end of `text` may be the beginning of `tag`."""
    return next((size for size in range(len(tag) - 1, 0, -1) if text.endswith(tag[:size])), 0)
