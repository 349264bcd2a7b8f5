"""The Unicode classes that DeepSeek-V4's patterns name, as the `tokenizers` package has them.

Python's `unicodedata` won't do: its Unicode version changes with Python's, and ids must not. After a new
release of the package ``python -m dsv4_model.bpe.unicode_classes`` writes the file anew.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Final

FILE: Final = Path(__file__).with_name("unicode_classes.txt")
OTHER: Final = "-"
"""Control, format, private and unassigned characters that are no white space."""
PATTERNS: Final = {"W": r"\s", "L": r"\p{L}", "M": r"\p{M}", "N": r"\p{N}", "P": r"\p{P}", "S": r"\p{S}"}
"""Letter of a class in the file, and what the library's regular expressions call it."""


class UnicodeClasses:
    """Class of a code point: a key of `PATTERNS`, or `OTHER`."""

    def __init__(self, text: str) -> None:
        ranges = sorted(_parsed(text))
        self._starts = [start for start, _, _ in ranges]
        self._ranges = ranges

    @classmethod
    def read(cls) -> UnicodeClasses:
        """Those of the package's file."""
        return cls(FILE.read_text(encoding="ascii"))

    def __getitem__(self, code_point: int) -> str:
        place = bisect_right(self._starts, code_point) - 1
        if place < 0:
            return OTHER
        _, last, letter = self._ranges[place]
        return letter if code_point <= last else OTHER


def _parsed(text: str) -> Iterator[tuple[int, int, str]]:
    for line in text.splitlines():
        letter, *ranges = line.split()
        for both in ranges:
            start, _, last = both.partition("-")
            yield int(start, 16), int(last or start, 16), letter


def as_the_library_has_them() -> str:
    """The file's text, made with the installed `tokenizers`. Takes seconds."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Split

    everything = "".join(chr(point) for point in range(sys.maxunicode + 1) if not 0xD800 <= point < 0xE000)
    lines: list[str] = []
    for letter, pattern in PATTERNS.items():
        kept = Split(Regex(f"{pattern}+"), "removed", invert=True).pre_tokenize_str(everything)
        ranges = [range_ for run, _ in kept for range_ in _ranges(run)]
        for at in range(0, len(ranges), 10):
            lines.append(" ".join([letter, *ranges[at : at + 10]]))
    return "\n".join(lines) + "\n"


def _ranges(run: str) -> Iterator[str]:
    """A run of the text of all characters, which lacks the surrogates, as ranges of code points."""
    for _, group in groupby(enumerate(map(ord, run)), key=lambda pair: pair[1] - pair[0]):
        points = [point for _, point in group]
        yield f"{points[0]:x}" if len(points) == 1 else f"{points[0]:x}-{points[-1]:x}"


if __name__ == "__main__":
    FILE.write_text(as_the_library_has_them(), encoding="ascii")
