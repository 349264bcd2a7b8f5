"""The growing prompt: what was sent stays as it was sent, byte for byte, and costs nothing the next time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dsv4_agent.backends.base import Conversation, Stretch
from dsv4_agent.backends.completions.tokens import SegmentTokens


@dataclass(frozen=True, slots=True)
class _Written:
    """A stretch that stands in the array, and where it ends: ids and bytes up to there."""

    stretch: Stretch
    ids: int
    bytes: int


class GrowingPrompt:
    """The ids of a conversation as a JSON array; only what was appended is encoded and written.

    A stretch's own ids are taken as they are. Where it has none (a server that answered in text) it is
    encoded, once, by itself, so that its ids don't depend on what follows.
    """

    def __init__(self, tokens: SegmentTokens) -> None:
        self._tokens = tokens
        self._written: list[_Written] = []
        self._array = bytearray()

    @property
    def count(self) -> int:
        """How many ids the array has."""
        return self._written[-1].ids if self._written else 0

    async def follow(self, conversation: Conversation) -> None:
        """Make the array that of `conversation`, which may also have been cut. Raises `ModelError`."""
        entries = conversation.entries
        known = self._written
        if known and (len(known) > len(entries) or known[-1].stretch is not entries[len(known) - 1]):
            self._cut(entries)
        kept = len(self._written)
        # The opening may have been exchanged under the rest.
        if kept and self._written[0].stretch is not entries[0]:
            self._cut(entries)
            kept = len(self._written)
        for entry in entries[kept:]:
            # Ids of another tokenizer would be read as something else by a server that has its own.
            ids = entry.ids if self._tokens.vocabulary is not None else None
            self._write(entry, await self._tokens.encode(entry.segments) if ids is None else ids)

    def json(self, more: Sequence[int] = ()) -> bytes:
        """The array, with `more` ids behind it."""
        return b"[%s]" % b",".join(filter(None, (self._array, _listed(more))))

    def _cut(self, entries: Sequence[Stretch]) -> None:
        pairs = zip(self._written, entries, strict=False)
        kept = next(
            (place for place, (mine, theirs) in enumerate(pairs) if mine.stretch is not theirs),
            min(len(self._written), len(entries)),
        )
        del self._written[kept:]
        del self._array[self._written[-1].bytes if self._written else 0 :]

    def _write(self, entry: Stretch, ids: Sequence[int]) -> None:
        if self._array and ids:
            self._array += b","
        self._array += _listed(ids)
        self._written.append(_Written(entry, self.count + len(ids), len(self._array)))


def _listed(ids: Sequence[int]) -> bytes:
    return ",".join(map(str, ids)).encode()
