"""The task: a long text with many facts of one form, then the question for one of them.

A fact is the line ``k1 k2 = v1 v2 v3``, a question ``k1 k2 ?``, its answer ``v1 v2 v3``. Every word comes
from the same pool of plain words, which the text between the facts uses too. No two facts share both words of
the key, some share one, and nothing tells a fact that will be asked for from the others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dsv4_model.tokenizer import Tokenizer

Ids = NDArray[np.int64]

NEWLINE, EQUALS, QUESTION = "\n", "=", "?"
FIRST_PIECE = 32
SUCCESSORS = 24
FACT = 8
"""Tokens of a fact with the line ends around it."""
VALUES = 3
ASK = 4
"""Tokens of a question: a line end, the key, the question mark."""


@dataclass(frozen=True)
class Fact:
    """A fact and where its line begins."""

    position: int
    key: tuple[int, int]
    value: tuple[int, int, int]


@dataclass(frozen=True)
class Haystack:
    """A text and all facts in it, in order."""

    ids: Ids
    facts: list[Fact]


class Task:
    """Draws texts and questions over the vocabulary of ``tokenizer``."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        pieces = [(i, tokenizer.token_bytes(i).decode("utf-8", "replace")) for i in range(tokenizer.size)]
        self.words = np.array([i for i, text in pieces if re.fullmatch("[a-z]{3,}", text)])
        self.newline, self.equals, self.question = (self._id(t) for t in (NEWLINE, EQUALS, QUESTION))
        marks = (self.newline, self.equals, self.question)
        self.ordinary = np.array([i for i in range(FIRST_PIECE, tokenizer.size) if i not in marks])

    def _id(self, text: str) -> int:
        found = self.tokenizer.id_of(text)
        assert found is not None, text
        return found

    @cached_property
    def _chain(self) -> tuple[Ids, NDArray[np.float64]]:
        """Successors of every token and their cumulative frequencies: bigrams as uneven as a text's."""
        rng = np.random.default_rng(4)
        frequency = 1 / (np.arange(len(self.ordinary)) + 8.0)
        frequency = rng.permutation(frequency / frequency.sum())
        shape = (self.tokenizer.size, SUCCESSORS)
        successors = rng.choice(self.ordinary, shape, p=frequency)
        weights = 1 / (np.arange(SUCCESSORS) + 1.5)
        return successors, np.cumsum(weights / weights.sum())

    def prose(self, rng: np.random.Generator, length: int) -> Ids:
        """Ordinary text without facts."""
        _, cumulative = self._chain
        choices = np.searchsorted(cumulative, rng.random(length)).clip(max=SUCCESSORS - 1).tolist()
        fresh = np.where(rng.random(length) < 0.08, rng.choice(self.ordinary, length), -1).tolist()
        table = self._table
        token = int(rng.choice(self.ordinary))
        out = []
        for choice, jump in zip(choices, fresh, strict=True):
            token = jump if jump >= 0 else table[token][choice]
            out.append(token)
        return np.array(out, dtype=np.int64)

    @cached_property
    def _table(self) -> list[list[int]]:
        table: list[list[int]] = self._chain[0].tolist()
        return table

    def haystack(
        self,
        rng: np.random.Generator,
        length: int,
        *,
        gap: float = 40.0,
        alike: float = 0.2,
    ) -> Haystack:
        """``length`` tokens of prose with a fact about every ``gap + 8`` tokens.

        The share ``alike`` of the facts takes one word of its key from the key of an earlier fact.
        """
        ids = self.prose(rng, length)
        facts: list[Fact] = []
        seen: set[tuple[int, int]] = set()
        at = int(rng.integers(0, 4))
        while at + FACT <= length:
            k1, k2 = (int(word) for word in rng.choice(self.words, 2))
            if facts and rng.random() < alike:
                other = facts[int(rng.integers(len(facts)))].key
                k1, k2 = (other[0], k2) if rng.random() < 0.5 else (k1, other[1])
            if (k1, k2) not in seen:
                seen.add((k1, k2))
                v1, v2, v3 = (int(word) for word in rng.choice(self.words, VALUES))
                fact = Fact(at, (k1, k2), (v1, v2, v3))
                ids[at : at + FACT] = self.line(fact)
                facts.append(fact)
            at += FACT + int(rng.exponential(gap))
        return Haystack(ids, facts)

    def line(self, fact: Fact) -> list[int]:
        """The tokens of a fact."""
        return [self.newline, *fact.key, self.equals, *fact.value, self.newline]

    def ask(self, fact: Fact) -> list[int]:
        """The tokens of the question whose answer is ``fact.value``."""
        return [self.newline, *fact.key, self.question]

    def text(self, ids: list[int] | tuple[int, ...]) -> str:
        """Words with spaces between them."""
        return " ".join(self.tokenizer.decode([i]) for i in ids).strip()
