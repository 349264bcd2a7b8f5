"""Prompts as alternating pieces of structure and content.

Structure is written by this program and may be encoded to special tokens; content comes from people, files
and tools, and is encoded *without* the added vocabulary, so that a `<｜User｜>` or `</think>` inside a file
becomes ordinary pieces and can never act as structure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of prompt text; only `structure=True` may contain special tokens."""

    text: str
    structure: bool


class SegmentBuilder:
    """Collects text and joins neighbours of one kind, so that token merges inside a kind are kept."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._structure = True
        self._done: list[Segment] = []

    def structure(self, text: str) -> None:
        """Append text that may be encoded to special tokens."""
        self._add(text, True)

    def content(self, text: str) -> None:
        """Append text that must never be encoded to special tokens."""
        self._add(text, False)

    def extend(self, segments: Iterable[Segment]) -> None:
        """Append ready segments, joining at the seam where the kinds agree."""
        for segment in segments:
            self._add(segment.text, segment.structure)

    def segments(self) -> list[Segment]:
        """All segments so far: none empty, no two neighbours of one kind."""
        self._flush()
        return list(self._done)

    def _add(self, text: str, structure: bool) -> None:
        if not text:
            return
        if structure is not self._structure:
            self._flush()
            self._structure = structure
        self._parts.append(text)

    def _flush(self) -> None:
        if not self._parts:
            return
        text = "".join(self._parts)
        self._parts = []
        if self._done and self._done[-1].structure is self._structure:
            text = self._done.pop().text + text
        self._done.append(Segment(text, self._structure))


def text_of(segments: Iterable[Segment]) -> str:
    """The plain text of a segment list (what a server without segments is sent)."""
    return "".join(segment.text for segment in segments)
