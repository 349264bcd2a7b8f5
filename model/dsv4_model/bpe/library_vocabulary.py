"""Any byte-level BPE, with the `tokenizers` package."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterable, Mapping
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import BPE

from dsv4_model.bpe.alphabet import byte_alphabet

_LARGE = 1 << 20
"""Bytes of a tokenizer.json."""
_LONG = 1 << 15
"""Characters from which on the library is called so that it lets other threads run meanwhile."""


class NotByteLevelError(ValueError):
    """The tokenizer is of another kind, or a token of it is; the message says which."""


class LibraryVocabulary:
    """One vocabulary, held once, with and without its added tokens."""

    def __init__(self, structure: Tokenizer) -> None:
        """Of the library's tokenizer. Raises `NotByteLevelError`."""
        if not isinstance(structure.model, BPE) or "ByteLevel" not in str(structure.decoder):
            raise NotByteLevelError("no byte-level BPE")
        self._structure = structure
        self._content = _without_added_tokens(structure)
        self._byte_of = byte_alphabet()
        self._character_of = {byte: character for character, byte in self._byte_of.items()}
        decoder = structure.get_added_tokens_decoder()
        self.added: Mapping[str, int] = {token.content: id for id, token in decoder.items()}

    @classmethod
    def from_file(cls, path: Path) -> LibraryVocabulary:
        """Read a tokenizer.json.

        Raises:
            NotByteLevelError: another kind of tokenizer.
            BaseException: whatever the library says of a damaged file; a Rust panic is no `Exception`.
        """
        structure = Tokenizer.from_file(str(path))
        if path.stat().st_size > _LARGE:
            _give_memory_back()
        return cls(structure)

    @classmethod
    def from_json(cls, text: str) -> LibraryVocabulary:
        """As `from_file`, from the file's text."""
        return cls(Tokenizer.from_str(text))

    def encode(self, text: str, structure: bool) -> list[int]:
        """Ids of ``text``; added tokens are recognised with ``structure`` only.

        Raises `TypeError` or `UnicodeEncodeError` for a lone surrogate.
        """
        backend = self._structure if structure else self._content
        if len(text) < _LONG:
            return backend.encode(text, add_special_tokens=False).ids
        return backend.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def spelling(self, id: int) -> bytes | None:
        """The bytes of a token that is not an added one; None if there is none of this number.

        Raises `NotByteLevelError`.
        """
        piece = self._content.id_to_token(id) if 0 <= id < 1 << 32 else None
        if piece is None:
            return None
        try:
            return bytes(self._byte_of[character] for character in piece)
        except KeyError:
            raise NotByteLevelError(f"token {id} ({piece!r}) is not byte-level BPE") from None

    def id_of(self, spelling: bytes) -> int | None:
        """The token with these bytes that is not an added one."""
        return self._content.token_to_id("".join(self._character_of[byte] for byte in spelling))

    def ids(self) -> Iterable[int]:
        """All tokens."""
        return (*self._content.get_vocab().values(), *self.added.values())


def _give_memory_back() -> None:
    """Reading a large vocabulary takes 40 MB that are free afterwards; the C library would keep them."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _without_added_tokens(structure: Tokenizer) -> Tokenizer:
    content = Tokenizer(structure.model)
    if structure.normalizer is not None:
        content.normalizer = structure.normalizer
    if structure.pre_tokenizer is not None:
        content.pre_tokenizer = structure.pre_tokenizer
    content.decoder = structure.decoder
    return content
