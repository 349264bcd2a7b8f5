"""Find what a few typed letters mean in a long list of paths or names.

A query matches a text that holds its letters in order. The best of all alignments counts: letters at the
start of a word, in the last part of a path and next to each other are worth more.
Equal input gives equal output.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_QUERY_LIMIT = 64
_SCORED = 400  # full scores are worked out for so many candidates; the cheap ranks before choose which
_START, _SEPARATOR, _WORD, _CAMEL = 12, 10, 8, 7
_RUN, _BASENAME, _CASE, _GAP = 9, 4, 1, 3
_NOTHING = -1_000_000


@dataclass(frozen=True, slots=True)
class Match:
    """A text that matches, and which of its characters did."""

    text: str
    score: int
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    text: str
    lower: str
    base: int  # where the last part of the path begins
    letters: int


class Candidates:
    """A list made ready for many searches."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Duplicates are dropped; the order of `texts` does not matter."""
        made = [_candidate(text) for text in sorted(set(texts), key=lambda text: (len(text), text))]
        self._all = tuple(made)

    def __len__(self) -> int:
        return len(self._all)

    def search(self, query: str, limit: int = 50) -> tuple[Match, ...]:
        """The best `limit` matches, best first; every text matches an empty query, the shortest first."""
        needle = _lower("".join(query.split())[:_QUERY_LIMIT])
        if not needle:
            return tuple(Match(candidate.text, 0, ()) for candidate in self._all[:limit])
        matches = [
            match
            for candidate in self._likely(needle)
            if (match := _score(candidate, needle, query)) is not None
        ]
        matches.sort(key=lambda match: (-match.score, len(match.text), match.text))
        return tuple(matches[:limit])

    def _likely(self, needle: str) -> list[_Candidate]:
        """The candidates that match, cut to those of the best rank when there are too many to score."""
        wanted = _letters(needle)
        ranks: tuple[list[_Candidate], ...] = ([], [], [], [])
        for candidate in self._all:
            if candidate.letters & wanted != wanted:
                continue
            rank = _rank(candidate, needle)
            if rank is None:
                continue
            ranks[rank].append(candidate)
            if rank == 0 and len(ranks[0]) >= _SCORED:
                break
        return [candidate for rank in ranks for candidate in rank][:_SCORED]


def match(text: str, query: str) -> Match | None:
    """How `query` matches one text, or None."""
    needle = _lower("".join(query.split())[:_QUERY_LIMIT])
    return _score(_candidate(text), needle, query) if needle else Match(text, 0, ())


def _candidate(text: str) -> _Candidate:
    lower = _lower(text)
    return _Candidate(text, lower, text.rstrip("/").rfind("/") + 1, _letters(lower))


def _lower(text: str) -> str:
    """Lower case, every character still at its place."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join(small if len(small := c.lower()) == 1 else c for c in text)


def _letters(text: str) -> int:
    bits = 0
    for character in set(text):
        bits |= 1 << (ord(character) & 63)
    return bits


def _rank(candidate: _Candidate, needle: str) -> int | None:
    """0: in one piece in the last part; 1: in one piece; 2: scattered in the last part; 3: scattered."""
    if candidate.lower.find(needle, candidate.base) >= 0:
        return 0
    if needle in candidate.lower:
        return 1
    if _holds(candidate.lower, needle, candidate.base):
        return 2
    return 3 if candidate.base and _holds(candidate.lower, needle, 0) else None


def _holds(text: str, needle: str, start: int) -> bool:
    for character in needle:
        start = text.find(character, start) + 1
        if not start:
            return False
    return True


def _score(candidate: _Candidate, needle: str, query: str) -> Match | None:
    """The best alignment: for each letter the best chain that ends at each of its places."""
    typed = "".join(query.split())
    chains: list[tuple[list[int], list[int], list[int]]] = []  # places, scores, index of the place before
    before_places: list[int] = []
    before_scores: list[int] = []
    for index, character in enumerate(needle):
        places = _places(candidate.lower, character)
        scores: list[int] = []
        previous: list[int] = []
        best, best_at, pointer = _NOTHING, -1, 0
        for place in places:
            while pointer < len(before_places) and before_places[pointer] < place:
                if before_scores[pointer] > best:
                    best, best_at = before_scores[pointer], pointer
                pointer += 1
            value = _worth(candidate, place, typed[index])
            score, came_from = (value, -1) if index == 0 else (best - _GAP + value, best_at)
            if index and pointer and before_places[pointer - 1] == place - 1:
                run = before_scores[pointer - 1] + _RUN + value
                if run >= score:
                    score, came_from = run, pointer - 1
            scores.append(score if index == 0 or came_from >= 0 else _NOTHING)
            previous.append(came_from)
        chains.append((places, scores, previous))
        before_places, before_scores = places, scores
    if not before_scores or max(before_scores) <= _NOTHING // 2:
        return None
    at = before_scores.index(max(before_scores))
    score = before_scores[at]
    positions: list[int] = []
    for places, _, previous in reversed(chains):
        positions.append(places[at])
        at = previous[at]
    return Match(candidate.text, score, tuple(reversed(positions)))


def _places(text: str, character: str) -> list[int]:
    found: list[int] = []
    at = text.find(character)
    while at >= 0:
        found.append(at)
        at = text.find(character, at + 1)
    return found


def _worth(candidate: _Candidate, place: int, typed: str) -> int:
    text = candidate.text
    worth = _BASENAME if place >= candidate.base else 0
    if text[place] == typed:
        worth += _CASE
    if place == 0 or place == candidate.base:
        return worth + _START
    before = text[place - 1]
    if before == "/":
        return worth + _SEPARATOR
    if not before.isalnum():
        return worth + _WORD
    if text[place].isupper() and before.islower():
        return worth + _CAMEL
    return worth
