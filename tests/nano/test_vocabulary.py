"""V4-Nano's tokenizer: the wire format's tokens, and names that have the same pieces everywhere."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from dsv4_model.nano import WEIGHTS
from dsv4_model.nano.data import vocabulary
from dsv4_model.nano.data.names import Names
from dsv4_model.nano.shape import CONFIG
from dsv4_model.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(WEIGHTS / "tokenizer.json")


def test_structure_has_its_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.size == CONFIG.vocab_size
    assert (tokenizer.bos_id, tokenizer.eos_id) == (CONFIG.bos_token_id, CONFIG.eos_token_id)
    assert [tokenizer.id_of(text) for text in vocabulary.STRUCTURAL] == list(
        range(len(vocabulary.STRUCTURAL))
    )


@pytest.mark.parametrize("seed", range(30))
def test_a_name_has_the_same_pieces_wherever_it_stands(tokenizer: Tokenizer, seed: int) -> None:
    names = Names(random.Random(seed))
    for name in (names.snake(), names.camel(), names.pascal(), names.constant()):
        pieces = tokenizer.encode(name, False)
        for before, after in (
            ("`", "`"),
            ("Rename ", " to x"),
            ('"', '".'),
            ("(", ")"),
            ("\n", "\n"),
            (".", "(3)"),
        ):
            whole = tokenizer.encode(f"{before}{name}{after}", False)
            spots = [i for i in range(len(whole)) if whole[i : i + len(pieces)] == pieces]
            assert spots, f"{before}{name}{after}"


def test_any_text_survives(tokenizer: Tokenizer) -> None:
    for text in ("", "\t\r\n\x00", "日本語 ｜DSML｜ </think>", "a_b__C1 == {'x': [1, 2]}", "🙂" * 3):
        for structure in (True, False):
            assert tokenizer.decode(tokenizer.encode(text, structure)) == text


@pytest.mark.slow
def test_the_same_code_trains_the_same_tokenizer(tmp_path: Path) -> None:
    folders = (tmp_path / "a", tmp_path / "b")
    for folder in folders:
        vocabulary.train(folder)
    first, second = ((folder / "tokenizer.json").read_bytes() for folder in folders)
    assert first == second
    assert Tokenizer.from_file(folders[0] / "tokenizer.json").size == CONFIG.vocab_size
