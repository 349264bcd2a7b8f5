"""Self-speculation: the MTP block guesses a token, which the main model checks together with the one before.

A wrong guess costs no repair: what its position overwrote in the rings is older than anything that the next
position can see, and is overwritten again by the right token.
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
    """How speculation went: guesses checked and right; seconds a token with and without."""

    checked: int
    accepted: int
    seconds_with: float
    seconds_without: float
    active: bool

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
    """Drafting for one timeline: what the MTP block has not seen yet, and whether drafting pays.

    ``streams`` ``[n, h, d]`` are the main model's at the last n positions of the state, not yet shown to the
    MTP block, which wants each with the token that follows. ``adaptive``: switch off while a token costs more
    with than without.
    """

    passes: Passes
    cache: KVCache
    adaptive: bool = True
    streams: Tensor | None = None
    checked: int = 0
    accepted: int = 0
    _with: _Clock = field(default_factory=_Clock)
    _without: _Clock = field(default_factory=_Clock)
    _idle: int = 0

    def reset(self) -> None:
        """The timeline went elsewhere: what the MTP block holds no longer precedes what comes."""
        self.streams = None
        self.cache.draft_position = 0

    def saw(self, streams: Tensor) -> None:
        """The main model has computed further positions."""
        self.streams = streams if self.streams is None else torch.cat((self.streams, streams))

    @property
    def pays(self) -> bool:
        """Whether a token costs less with drafting, as far as has been measured."""
        measured = self._without.samples >= _PLAIN_TRIALS and self._with.samples >= _TRIALS
        return not (self.adaptive and measured) or self._with.rate < self._without.rate

    def wants(self) -> bool:
        """Whether the next token should be decoded with a guess."""
        if self.adaptive and self._without.samples < _PLAIN_TRIALS:
            return False
        if self.pays:
            return True
        self._idle += 1
        if self._idle > _RETRY:
            self._idle = 0
            self._with, self._without = _Clock(), _Clock()
        self.reset()
        return False

    def catch_up(self, following: list[int]) -> None:
        """Show the MTP block all waiting streams but those whose next token isn't in ``following``."""
        if self.streams is None or not following:
            return
        count = len(following)
        self.passes.draft([Piece(self.cache, following, Rows.NONE)], self.streams[:count])
        self.streams = self.streams[count:] if count < self.streams.shape[0] else None

    def guess(self, following: list[int], sampler: Sampler, position: int) -> int | None:
        """The token at ``position``, after ``following``, which waiting streams precede; None: no guess."""
        if self.streams is None or self.streams.shape[0] != len(following):
            return None
        logits, _ = self.passes.draft([Piece(self.cache, following, Rows.LAST)], self.streams)
        self.streams = None
        try:
            return sampler.choose(logits[0], position)
        except SamplingError:  # a broken draft block must not break what it only speeds up
            return None

    def timed(self, started: float, *, guessed: bool) -> None:
        """A pass that gave one token has ended."""
        (self._with if guessed else self._without).add(time.perf_counter() - started, 1)

    def verdict(self, right: bool) -> None:
        """A guess was checked. A right one is a token for which no pass was needed."""
        self.checked += 1
        self.accepted += right
        self._with.tokens += right

    def report(self) -> SpeculationReport:
        """The figures so far."""
        return SpeculationReport(self.checked, self.accepted, self._with.rate, self._without.rate, self.pays)
