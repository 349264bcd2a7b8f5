"""Ids that llama.cpp keeps to itself.

While a character is incomplete its server sends nothing, and then the text of the whole character with the
id of the last token only. The ids before it are found again from the text.
"""

from __future__ import annotations

import contextlib
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsv4_model.tokenizer import Tokenizer


class LostIds:
    """Completes the ids of a piece of text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def mended(self, text: str, ids: tuple[int, ...]) -> tuple[int, ...]:
        """All ids of `text`, of which the last are known.

        The bytes are exact. The ids are those that the tokenizer itself would choose, if these end in the
        known ones; a model that has chosen others has the KV state of that character computed anew.
        """
        if not ids or not text:
            return ids
        whole = text.encode("utf-8", "surrogatepass")
        known = b"".join(self._tokenizer.token_bytes(id) for id in ids)
        if not known or len(known) >= len(whole) or not whole.endswith(known):
            return ids
        usual = tuple(self._tokenizer.encode(text, False))
        if usual[-len(ids) :] == ids:
            return usual
        return (*self._spelt(whole[: -len(known)]), *ids)

    def _spelt(self, data: bytes) -> list[int]:
        """Bytes as the longest tokens that fit; each byte is a token as well."""
        ids: list[int] = []
        while data:
            size = next(size for size in range(len(data), 0, -1) if data[:size] in self._by_bytes)
            ids.append(self._by_bytes[data[:size]])
            data = data[size:]
        return ids

    @cached_property
    def _by_bytes(self) -> dict[bytes, int]:
        from dsv4_model.tokenizer import TokenizerError

        tokenizer = self._tokenizer
        special = set(tokenizer.added_tokens.values())
        spelt: dict[bytes, int] = {}
        for id in range(tokenizer.size):
            with contextlib.suppress(TokenizerError):  # not every number is a token
                if id not in special:
                    spelt.setdefault(tokenizer.token_bytes(id), id)
        return spelt
