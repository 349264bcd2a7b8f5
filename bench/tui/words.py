"""What is streamed: plain words without a capital, so that a typed capital is known by its echo."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

PAUSE: Final = 0.005
"""Seconds between two words: 200 tokens a second."""
ENDS: Final = ("\N{END OF PROOF}", "\N{UP TACK}")
"""Come after the last word, each after that of its own stream: what was there before is painted again."""

_VOCABULARY: Final = (
    "the function that reads a file and returns its lines is called by every test of this module so we "
    "change one name and run them again before anything else can break while the cache still holds"
).split()


def words(count: int) -> Iterator[str]:
    """The same words every time."""
    chosen = random.Random(4)
    for _ in range(count):
        yield chosen.choice(_VOCABULARY)


def script(count: int) -> str:
    """A script for dsv4's scripted model: one answer of `count` words an end, in paragraphs of sixty."""
    return "\n---\n".join(_turn(count, end) for end in ENDS) + "\n"


def _turn(count: int, end: str) -> str:
    lines = ["text: Well,"]
    for number, word in enumerate(words(count)):
        lines.append(f"delay: {PAUSE}")
        if number % 60 == 59:
            lines += ["text: ", f"text: {word}"]  # a text step begins a line
        else:
            lines.append(f"raw:  {word}")
    return "\n".join([*lines, f"raw:  {end}<｜end▁of▁sentence｜>"])
