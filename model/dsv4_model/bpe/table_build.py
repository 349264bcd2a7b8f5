"""Makes a table of a tokenizer.json, if that is one that a table can stand for."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Mapping
from itertools import accumulate, pairwise
from typing import Any, Final

from dsv4_model.bpe.alphabet import byte_alphabet
from dsv4_model.bpe.merging import NO_MERGE, fill, pair_of
from dsv4_model.bpe.splitting import PRE_TOKENIZER
from dsv4_model.bpe.table import AddedToken, Table

_ABSENT: Final = (None, "", False)
_NO_NORMALIZERS: Final = (None, {"type": "Sequence", "normalizers": []})
_SURROUNDINGS: Final = ("single_word", "lstrip", "rstrip")


class NoTableError(Exception):
    """The file asks for something that tables don't have, or is damaged: the library will say which."""


def build_table(text: str) -> Table:
    """The table of a tokenizer.json's text. Raises `NoTableError`."""
    try:
        return _built(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NoTableError(f"not understood: {error}") from error


def _built(definition: Any) -> Table:
    model = definition["model"]
    _demand(model["type"] == "BPE", "another model")
    options = [value for name, value in model.items() if name not in ("type", "vocab", "merges")]
    _demand(all(value in _ABSENT for value in options), "options of the model")
    _demand(definition.get("truncation") is definition.get("padding") is None, "truncation or padding")
    _demand(definition.get("normalizer") in _NO_NORMALIZERS, "a normalizer")
    _demand(definition["pre_tokenizer"] == PRE_TOKENIZER, "another pre-tokenizer")
    _demand(definition["decoder"]["type"] == "ByteLevel", "another decoder")
    vocabulary: Mapping[str, int] = model["vocab"]
    _demand(all(type(id) is int and 0 <= id < NO_MERGE for id in vocabulary.values()), "ids too large")
    added = tuple(_added(definition["added_tokens"]))
    _demand(len({token.text for token in added}) == len(added), "an added token twice")
    byte_of = byte_alphabet()
    byte_ids = [vocabulary[character] for character, _ in sorted(byte_of.items(), key=lambda pair: pair[1])]
    pairs = _pairs(vocabulary, model["merges"])
    within = {*byte_ids, *pairs.values()}
    _demand(within.isdisjoint(token.id for token in added), "an added token that content can produce")
    slots = array("Q", bytes(8 << (2 * len(pairs)).bit_length()))
    for pair, id in pairs.items():
        fill(slots, pair, id)
    offsets, spellings = _spellings(vocabulary, {token.id for token in added})
    return Table(added, tuple(byte_ids), slots, offsets, spellings)


def _added(entries: Iterable[Mapping[str, Any]]) -> Iterable[AddedToken]:
    for entry in entries:
        text, id = entry["content"], entry["id"]
        _demand(isinstance(text, str) and text != "", "an added token that is no text")
        _demand(type(id) is int and 0 <= id < NO_MERGE, "ids too large")
        _demand(not any(entry.get(name) for name in _SURROUNDINGS), "added tokens that look around")
        yield AddedToken(text, id, not entry.get("normalized", False))


def _pairs(vocabulary: Mapping[str, int], merges: Iterable[str | list[str]]) -> dict[int, int]:
    """Key of each pair to the id of what it becomes."""
    pairs: dict[int, int] = {}
    for merge in merges:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        pairs[pair_of(vocabulary[left], vocabulary[right])] = vocabulary[left + right]
    ascending = all(before < after for before, after in pairwise(pairs.values()))
    _demand(ascending, "ids out of the order of the merges")
    return pairs


def _spellings(vocabulary: Mapping[str, int], added: set[int]) -> tuple[array[int], bytes]:
    """The bytes of every token but the added ones, joined, and where each begins."""
    pieces = [""] * (max(vocabulary.values()) + 1)
    for piece, id in vocabulary.items():
        if id not in added:
            pieces[id] = piece
    together = "".join(pieces)
    byte_of = byte_alphabet()
    _demand(byte_of.keys() >= set(together), "tokens that are no bytes")
    to_bytes = str.maketrans({character: chr(byte) for character, byte in byte_of.items()})
    offsets = array("I", accumulate(map(len, pieces), initial=0))  # a character of a piece is a byte
    return offsets, together.translate(to_bytes).encode("latin-1")


def _demand(met: bool, what: str) -> None:
    if not met:
        raise NoTableError(what)
