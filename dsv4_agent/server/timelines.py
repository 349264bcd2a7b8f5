"""Timelines of finished turns, kept for requests to come up to a number of bytes; the oldest go first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from dsv4_agent.server.kv_holdings import holdings
from dsv4_model.engine import Engine, Sequence

__all__ = ["Timelines"]

_MOST = 64
"""Timelines at most, however small: each costs a look when a prompt is matched."""


@dataclass(slots=True)
class Timelines:
    """Idle timelines over one engine, the most recently used last. For the engine's thread alone."""

    engine: Engine
    limit: int
    _idle: OrderedDict[int, Sequence]

    @classmethod
    def over(cls, engine: Engine, limit: int) -> Timelines:
        """None kept yet; `limit` is in bytes."""
        return cls(engine, limit, OrderedDict())

    def __len__(self) -> int:
        return len(self._idle)

    def __iter__(self) -> Iterator[Sequence]:
        """The most recently used first."""
        return iter(tuple(reversed(self._idle.values())))

    def nbytes(self) -> int:
        """Bytes that the idle timelines hold, shared pages counted once."""
        return holdings(self._idle.values()).nbytes

    def open(self, tokens: list[int]) -> Sequence:
        """A timeline for a prompt: an idle one that it continues, else a new one.

        A new one takes the longest state that any living timeline, or the store, has of the prompt. Raises
        `CacheMemoryError`.
        """
        best: Sequence | None = None
        for sequence in self._idle.values():
            covered = sequence.position
            if 0 < covered <= len(tokens) and sequence.tokens[:covered] == tokens[:covered]:
                longer = best is None or covered > best.position
                best = sequence if longer else best
        if best is None or self._better_elsewhere(best, tokens):
            return self.engine.sequence()
        del self._idle[id(best)]
        return best

    def keep(self, sequence: Sequence) -> None:
        """Take a timeline whose turn is over, and let the oldest go that there is no room for."""
        self._idle[id(sequence)] = sequence
        while self._idle and (len(self._idle) > _MOST or self.nbytes() > self.limit):
            self._idle.popitem(last=False)

    def release(self) -> bool:
        """Let the oldest half go, when memory is short; whether there was one."""
        some = bool(self._idle)
        for _ in range((len(self._idle) + 1) // 2):
            self._idle.popitem(last=False)
        return some

    def _better_elsewhere(self, mine: Sequence, tokens: list[int]) -> bool:
        """Whether a running timeline has come further with the prompt than an idle one."""
        other = self.engine.find_boundary(tokens, mine)
        return other is not None and other.position > mine.position
