"""DeepSeek-V4's cut of a text into words, which tokens never cross.

Its tokenizer.json has three regular expressions, each applied to the pieces of the one before: numbers of up
to three digits, runs of Chinese and Japanese, everything else. Here every character becomes the letter of its
class first, and one expression over these letters does the work of all three.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from dsv4_model.bpe.unicode_classes import OTHER, UnicodeClasses

PRE_TOKENIZER: Final = {
    "type": "Sequence",
    "pretokenizers": [
        *(
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
            for pattern in (
                r"\p{N}{1,3}",
                "[一-龥\u3040-ゟ゠-ヿ]+",
                r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
                "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
                "| ?[\\p{P}\\p{S}]+[\r\n]*"
                r"|\s*[" + "\r\n" + r"]+|\s+(?!\S)|\s+",
            )
        ),
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ],
}
"""What a tokenizer.json must ask for, word for word, if `words` is to be right for it."""

# Letters of the classes: a ASCII letter, l other letter, m mark, 0 number, p ASCII punctuation or symbol,
# s other punctuation or symbol, _ space, n line break, w other white space, o the rest. The second expression
# takes the characters of its ranges away from all of them: L, M, S and O are their letters, marks, ...
_RANGES: Final = ((0x4E00, 0x9FA5), (0x3040, 0x30FF))
_LETTERS: Final = {"L": "l", "M": "m", "N": "0", "P": "s", "S": "s", "W": "w", OTHER: "o"}
_ASCII: Final = {
    **{ord(character): "n" for character in "\r\n"},
    **dict.fromkeys(range(33, 127), "p"),
    **{ord(character): "a" for character in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"},
    **{ord(character): "0" for character in "0123456789"},
    **{ord(character): "w" for character in "\t\v\f"},
    ord(" "): "_",
}
_WORD: Final = re.compile(
    "0{1,3}"
    "|[MO]?[LM]+|S+|O+(?![LM])"
    "|pa+|[m_wo]?[alm]+|_?[ps]+n*|[_wn]*n+|[_wn]+(?![almpso])|[_wn]+|o+(?![alm])"
)
"""What no alternative of the third expression matches is a word as well, as long as it lasts (O+, o+).
Numbers and Chinese characters end the piece before them, and the end of a piece satisfies ``(?!\\S)``."""


class _ClassLetters(dict[int, str]):
    """Code point to letter, filled as characters are met."""

    def __init__(self) -> None:
        super().__init__(_ASCII)
        self._classes: UnicodeClasses | None = None

    def __missing__(self, code_point: int) -> str:
        if self._classes is None:
            self._classes = UnicodeClasses.read()
        letter = _LETTERS[self._classes[code_point]]
        if any(first <= code_point <= last for first, last in _RANGES):
            letter = letter.upper()
        self[code_point] = letter
        return letter


_letters: Final = _ClassLetters()


def words(text: str) -> Iterator[str]:
    """The words of ``text``; joined they are ``text`` again."""
    for found in _WORD.finditer(text.translate(_letters)):
        yield text[found.start() : found.end()]
