"""Tokens from a table are those of the `tokenizers` package."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsv4_model.bpe.splitting import words
from dsv4_model.bpe.unicode_classes import FILE, as_the_library_has_them
from tests.model.bpe.vocabularies import REPOSITORY, TEXTS, Both, deepseeks, own

VOCABULARIES = pytest.mark.parametrize("vocabularies", [own, deepseeks])


@VOCABULARIES
def test_the_same_tokens_with_the_same_bytes(vocabularies: Callable[[], Both]) -> None:
    table, library = vocabularies()
    ids = set(library.ids())
    assert set(table.ids()) == ids
    assert table.added == library.added
    for id in ids - set(library.added.values()):
        spelling = library.spelling(id)
        assert spelling is not None
        assert table.spelling(id) == spelling
        assert table.id_of(spelling) == id
    assert table.spelling(max(ids) + 1) is table.spelling(-1) is table.id_of(b"no such token") is None


@VOCABULARIES
@settings(max_examples=400, deadline=None)
@given(text=TEXTS, structure=st.booleans())
@example(text="1  2   中   3 \r\n\n x \u200b\u200ba カ゛・ー゠a'b", structure=False)
def test_the_same_ids_for_any_text(vocabularies: Callable[[], Both], text: str, structure: bool) -> None:
    table, library = vocabularies()
    assert table.encode(text, structure) == library.encode(text, structure)


def test_the_same_ids_for_every_character() -> None:
    """All of the first plane and a sample of the rest, alone, doubled and between others."""
    table, library = own()
    points = [
        *range(0xD800),
        *range(0xE000, 0x10000),
        *range(0x10000, 0x20000, 7),
        *range(0x20000, 0x110000, 997),
    ]
    for start in range(0, len(points), 512):
        some = map(chr, points[start : start + 512])
        text = "".join(f"a{c}b {c}{c}1\n{c} {c}.{c}カ{c}中{c}\n" for c in some)
        assert table.encode(text, False) == library.encode(text, False), f"near {points[start]:x}"


@VOCABULARIES
def test_the_same_ids_for_long_words(vocabularies: Callable[[], Both]) -> None:
    table, library = vocabularies()
    chosen = random.Random(4)
    for alphabet in ("a", "ab", " ", "\n", "=", "中", "aé한", "abcdefghij", "\u200b"):
        for length in (127, 128, 129, 3_000):
            text = "".join(chosen.choice(alphabet) for _ in range(length))
            assert table.encode(text, False) == library.encode(text, False), (alphabet, length)


@VOCABULARIES
def test_the_same_ids_for_this_repository(vocabularies: Callable[[], Both]) -> None:
    table, library = vocabularies()
    for file in sorted(REPOSITORY.glob("dsv4_agent/**/*.py")):
        text = file.read_text(encoding="utf-8")
        assert table.encode(text, True) == library.encode(text, True), file


@given(TEXTS)
def test_words_are_the_text(text: str) -> None:
    assert "".join(words(text)) == text


def test_the_classes_are_the_librarys() -> None:
    assert FILE.read_text(encoding="ascii") == as_the_library_has_them()
