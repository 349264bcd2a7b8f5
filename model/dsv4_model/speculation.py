"""Self-speculation: the MTP block guesses tokens, which the main model checks together with the one before.

A guess beyond the first takes the MTP block's own output for the streams that the main model has not computed
yet. Right guesses are tokens for which no pass was needed; wrong ones are taken back out of the state.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dsv4_model.cache.kv_cache import KVCache
from dsv4_model.passes import Passes, Piece, Rows
from dsv4_model.sampling import Sampler, SamplingError

__all__ = ["Guess", "Speculation", "SpeculationReport"]

MOST_GUESSES = 3
_PLAIN_TRIALS = 6
_TRIALS = 24
_RETRY = 512
"""Tokens after which a speculation that didn't pay is tried again."""


@dataclass(frozen=True, slots=True)
class Guess:
    """A token that the cache already holds, and the logits (fp32 ``[vocab]``) after it, if it is right."""

    token: int
    logits: Tensor


@dataclass(frozen=True, slots=True)
class SpeculationReport:
    """How speculation went.

    Attributes:
        checked, accepted: guesses checked, and right.
        seconds_with, seconds_without: a token, with the number of guesses that is best so far, and with none.
        active: whether that pays.
        guesses: that number; 0 where none pays.
        by_place: (checked, accepted) of first guesses, of second ones, and so on.
    """

    checked: int
    accepted: int
    seconds_with: float
    seconds_without: float
    active: bool
    guesses: int = 0
    by_place: tuple[tuple[int, int], ...] = ()

    @property
    def acceptance(self) -> float:
        """Share of guesses that were right."""
        return self.accepted / self.checked if self.checked else 0.0


@dataclass(slots=True)
class _Clock:
    """Seconds and tokens of one way to decode, the recent ones weighing more."""

    seconds: float = 0.0
    tokens: float = 0.0
    samples: int = 0

    def add(self, seconds: float, tokens: int) -> None:
        self.seconds = 0.98 * self.seconds + seconds
        self.tokens = 0.98 * self.tokens + tokens
        self.samples += 1

    @property
    def rate(self) -> float:
        return self.seconds / self.tokens if self.tokens else 0.0


@dataclass(slots=True)
class Speculation:
    """Drafting for one timeline: what the MTP block has not seen yet, and how many guesses pay.

    ``streams`` ``[n, h, d]`` are the main model's at the last n positions of the state, not yet shown to the
    MTP block, which wants each with the token that follows. ``adaptive``: guess as many tokens at a time as
    make a token cheapest, none where none do; else always ``guesses``.
    """

    passes: Passes
    cache: KVCache
    adaptive: bool = True
    guesses: int = 1
    streams: Tensor | None = None
    _clocks: list[_Clock] = field(default_factory=lambda: [_Clock() for _ in range(MOST_GUESSES + 1)])
    _checked: list[int] = field(default_factory=lambda: [0] * MOST_GUESSES)
    _accepted: list[int] = field(default_factory=lambda: [0] * MOST_GUESSES)
    _made: int = 0  # guesses of the pass that is being checked
    _confirmed: int = 0  # how many of them have been
    _idle: int = 0

    @property
    def checked(self) -> int:
        """Guesses that were checked."""
        return sum(self._checked)

    @property
    def accepted(self) -> int:
        """Guesses that were right."""
        return sum(self._accepted)

    def reset(self) -> None:
        """The timeline went elsewhere: what the MTP block holds no longer precedes what comes."""
        self.streams = None
        self.cache.draft_position = 0

    def saw(self, streams: Tensor) -> None:
        """The main model has computed further positions."""
        self.streams = streams if self.streams is None else torch.cat((self.streams, streams))

    @property
    def best(self) -> int:
        """How many guesses at a time to make now: what is measured next, or what was the best."""
        if not self.adaptive:
            return self.guesses
        if self._clocks[0].samples < _PLAIN_TRIALS:
            return 0
        for guesses in range(1, MOST_GUESSES + 1):
            if self._clocks[guesses].samples < _TRIALS:
                return guesses
            if self._clocks[guesses].rate >= self._clocks[guesses - 1].rate:
                return guesses - 1  # more would pay less still
        return MOST_GUESSES

    @property
    def pays(self) -> bool:
        """Whether a token costs less with drafting, as far as has been measured."""
        return self.best > 0 or self._clocks[0].samples < _PLAIN_TRIALS

    def wanted(self) -> int:
        """How many guesses to decode the next token with."""
        best = self.best
        if best == 0 and not self.pays:
            self._idle += 1
            if self._idle > _RETRY:
                self._idle = 0
                self._clocks = [_Clock() for _ in self._clocks]
            self.reset()
        return best

    def catch_up(self, following: list[int]) -> None:
        """Show the MTP block all waiting streams but those whose next token isn't in ``following``."""
        if self.streams is None or not following:
            return
        count = len(following)
        self.passes.draft([Piece(self.cache, following, Rows.NONE)], self.streams[:count])
        self.streams = self.streams[count:] if count < self.streams.shape[0] else None

    def guess(self, following: list[int], sampler: Sampler, position: int, count: int = 1) -> list[int]:
        """At most ``count`` tokens from ``position`` on, after ``following``, which waiting streams
        precede."""
        if self.streams is None or self.streams.shape[0] != len(following):
            return []
        logits, out = self.passes.draft([Piece(self.cache, following, Rows.LAST, Rows.LAST)], self.streams)
        self.streams = None
        true = self.cache.draft_position
        # What the block sees of guesses it sees again of the tokens that come; rows that it may still need
        # in between are put back.
        saved = self.cache.save_slots(range(true + 1, true + count - 1), drafts=True) if count > 2 else None
        made: list[int] = []
        try:
            while True:
                made.append(sampler.choose(logits[0], position + len(made)))
                if len(made) == count:
                    break
                logits, out = self.passes.draft([Piece(self.cache, made[-1:], Rows.LAST, Rows.LAST)], out)
        except SamplingError:  # a broken draft block must not break what it only speeds up
            pass
        self.cache.draft_position = true
        if saved is not None:
            self.cache.put_back(saved, 0)
        return made

    def timed(self, started: float, *, guesses: int) -> None:
        """A pass that gave one token, and checks ``guesses`` more, has ended."""
        self._clocks[guesses].add(time.perf_counter() - started, 1)
        self._made, self._confirmed = guesses, 0

    def verdict(self, right: bool) -> None:
        """A guess was checked. A right one is a token for which no pass was needed."""
        self._checked[self._confirmed] += 1
        self._accepted[self._confirmed] += right
        self._clocks[self._made].tokens += right
        self._confirmed += right

    def report(self) -> SpeculationReport:
        """The figures so far."""
        best = self.best
        return SpeculationReport(
            self.checked,
            self.accepted,
            self._clocks[best or 1].rate,
            self._clocks[0].rate,
            self.pays,
            best,
            tuple(zip(self._checked, self._accepted, strict=True)),
        )
