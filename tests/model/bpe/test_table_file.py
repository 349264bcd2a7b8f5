"""The file of a table: a bad one is made again, and what no table can stand for is the library's."""

from __future__ import annotations

import json
import random
import stat
from pathlib import Path
from typing import Any

import pytest

from dsv4_model.bpe.merging import ID_BITS
from dsv4_model.bpe.splitting import PRE_TOKENIZER
from dsv4_model.bpe.table import read_table, table_path
from dsv4_model.bpe.table_build import NoTableError, build_table
from dsv4_model.bpe.table_vocabulary import TableVocabulary
from dsv4_model.tokenizer import Tokenizer, TokenizerError
from tests.model.bpe.vocabularies import trained


def file_of(folder: Path, text: str) -> Path:
    source = folder / "tokenizer.json"
    source.write_text(text, encoding="utf-8")
    return source


def test_the_second_time_the_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, cache_ = file_of(tmp_path, trained()), tmp_path / "a" / "cache"
    first = TableVocabulary.from_file(source, cache_)
    kept = table_path(cache_, source)
    assert [kept] == list(cache_.iterdir())
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and stat.S_IMODE(cache_.stat().st_mode) == 0o700
    monkeypatch.setattr("dsv4_model.bpe.table_vocabulary.build_table", None)
    second = TableVocabulary.from_file(source, cache_)
    assert second.encode("<think>naïve 你好", True) == first.encode("<think>naïve 你好", True)
    assert set(second.ids()) == set(first.ids())


def test_a_file_that_has_changed_has_another_table(tmp_path: Path) -> None:
    source = file_of(tmp_path, trained())
    before = TableVocabulary.from_file(source, tmp_path / "cache")
    changed = json.loads(trained())
    changed["added_tokens"][0]["content"] = "<｜begin▁of▁sentenca｜>"  # of the same length
    file_of(tmp_path, json.dumps(changed))
    assert set(TableVocabulary.from_file(source, tmp_path / "cache").added) != set(before.added)
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("cut", [0, 3, 15, 40, 5_000, -1])
def test_a_table_cut_short_is_made_again(tmp_path: Path, cut: int) -> None:
    source = file_of(tmp_path, trained())
    TableVocabulary.from_file(source, tmp_path / "cache")
    kept = table_path(tmp_path / "cache", source)
    whole = kept.read_bytes()
    kept.write_bytes(whole[:cut])
    assert read_table(kept, source) is None
    TableVocabulary.from_file(source, tmp_path / "cache")
    assert kept.read_bytes() == whole


def test_a_flipped_byte_is_noticed(tmp_path: Path) -> None:
    source = file_of(tmp_path, trained())
    TableVocabulary.from_file(source, tmp_path / "cache")
    kept = table_path(tmp_path / "cache", source)
    whole = kept.read_bytes()
    chosen = random.Random(7)
    for place in (*range(24), *(chosen.randrange(len(whole)) for _ in range(60))):
        content = bytearray(whole)
        content[place] ^= chosen.randint(1, 255)
        kept.write_bytes(content)
        assert read_table(kept, source) is None, place


def test_without_a_place_to_keep_it_all_goes_on(tmp_path: Path) -> None:
    source = file_of(tmp_path, trained())
    (tmp_path / "cache").write_text("no folder")
    assert TableVocabulary.from_file(source, tmp_path / "cache").encode("<think>", True)


def changed(**parts: Any) -> str:
    return json.dumps({**json.loads(trained()), **parts})


def model(**parts: Any) -> dict[str, Any]:
    return {**json.loads(trained())["model"], **parts}


def added(**parts: Any) -> list[dict[str, Any]]:
    first, *rest = json.loads(trained())["added_tokens"]
    return [first | parts, *rest]


def swapped() -> dict[str, Any]:
    """The ids of two merges the other way round."""
    vocabulary = json.loads(trained())["model"]["vocab"]
    one, other = list(vocabulary)[-2:]
    return vocabulary | {one: vocabulary[other], other: vocabulary[one]}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        trained()[:-9],
        "[" * 100_000,
        changed(model=model(type="Unigram")),
        changed(model=model(byte_fallback=True)),
        changed(model=model(ignore_merges=True)),
        changed(model=model(dropout=0.5)),
        changed(model=model(new_option=3)),
        changed(model=model(vocab=swapped())),
        changed(model=model(vocab=model()["vocab"] | {"zzz": 1 << ID_BITS})),
        changed(model=model(vocab=model()["vocab"] | {"zz z": 5_000})),
        changed(model=model(merges=[["a", "no such token"]])),
        changed(normalizer={"type": "NFC"}),
        changed(pre_tokenizer=PRE_TOKENIZER["pretokenizers"][-1]),  # type: ignore[index]
        changed(decoder={"type": "WordPiece"}),
        changed(truncation={"max_length": 4}),
        changed(padding={"pad_id": 4}),
        changed(added_tokens=added(lstrip=True)),
        changed(added_tokens=added(single_word=True)),
        changed(added_tokens=added(id=9)),
        changed(added_tokens=added(content="")),
        changed(added_tokens=added(content="<think>")),
    ],
)
def test_what_a_table_can_not_stand_for_is_left_to_the_library(text: str) -> None:
    with pytest.raises(NoTableError):
        build_table(text)


def large(**parts: Any) -> str:
    """Large enough that a table is wanted."""
    return changed(**parts) + " " * (1 << 20)


def test_a_tokenizer_uses_the_table_where_there_can_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSV4_CACHE_DIR", str(tmp_path / "cache"))
    ours = Tokenizer.from_file(file_of(tmp_path, large()))
    assert len(list((tmp_path / "cache" / "vocabularies").iterdir())) == 1
    librarys = Tokenizer.from_json(trained())
    assert ours.fingerprint == librarys.fingerprint and ours.size == librarys.size
    text = "<｜User｜>naïve \udc80 你好 </think>"
    for structure in (True, False):
        ids = ours.encode(text, structure)
        assert ids == librarys.encode(text, structure)
        assert ours.decode(ids) == text.replace("\udc80", "\ufffd" * 3)
    assert ours.id_of("<think>") == librarys.id_of("<think>") and ours.id_of("er") == librarys.id_of("er")
    with pytest.raises(TokenizerError, match="no token with id"):
        ours.token_bytes(ours.size)


def test_a_tokenizer_uses_the_library_for_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSV4_CACHE_DIR", str(tmp_path / "cache"))
    other = Tokenizer.from_file(file_of(tmp_path, large(normalizer={"type": "NFC"})))
    assert other.encode("e\u0301", False) == other.encode("é", False)
    assert not (tmp_path / "cache").exists()
    with pytest.raises(TokenizerError, match=r"it has no token .*<｜User｜>"):
        Tokenizer.from_file(file_of(tmp_path, large(added_tokens=[])))
