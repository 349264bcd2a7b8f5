"""Chunks of text or token ids -> text in which special tokens are single code points (see `patterns`)."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable

from dsv4_agent.dsml.patterns import MARK_DSML, MARK_END_THINK, MARK_THINK, MARKS
from dsv4_agent.dsml.vocabulary import SpecialIds, Vocabulary

_TOKEN = re.compile("|".join(re.escape(token) for token in MARKS))
_PREFIXES = frozenset(token[:length] for token in MARKS for length in range(1, len(token)))
_LONGEST_PREFIX = max(map(len, _PREFIXES))
_SURROGATE = re.compile("[\ud800-\udfff]")


class TextLexer:
    """For servers that return text: the tokens' spelling is all there is to go by."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, chunk: str) -> str:
        """What can be decided so far; a suffix that may start a token is held back."""
        text = self._held + _SURROGATE.sub("\ufffd", chunk)
        text = _TOKEN.sub(lambda match: MARKS[match.group()], text)
        keep = next(
            (size for size in range(min(_LONGEST_PREFIX, len(text)), 0, -1) if text[-size:] in _PREFIXES), 0
        )
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back."""
        held, self._held = self._held, ""
        return held


class IdLexer:
    """For token streams: only the real ids are special; bytes are joined to characters."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.special = SpecialIds.of(vocabulary)
        marks = (
            (self.special.dsml, MARK_DSML),
            (self.special.end_think, MARK_END_THINK),
            (self.special.think, MARK_THINK),
        )
        self._marks = {token_id: mark for token_id, mark in marks if token_id is not None}
        self.ended = False

    def feed(self, ids: Iterable[int]) -> str:
        """Text of the ids; after a stop id nothing more is read and `ended` is set."""
        parts: list[str] = []
        for token_id in ids:
            if self.ended:
                break
            if token_id in self.special.stops:
                self.ended = True
                parts.append(self.finish())
            elif (mark := self._marks.get(token_id)) is not None:
                parts.append(self.finish() + mark)
            else:
                parts.append(self._decoder.decode(self._vocabulary.token_bytes(token_id)))
        return "".join(parts)

    def finish(self) -> str:
        """The replacement character for an incomplete one at the end."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text
