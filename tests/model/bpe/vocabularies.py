"""A trained vocabulary with DeepSeek-V4's cut, and DeepSeek's own, each by table and by library."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from hypothesis import strategies as st

from dsv4_model.bpe.alphabet import byte_alphabet
from dsv4_model.bpe.library_vocabulary import LibraryVocabulary
from dsv4_model.bpe.splitting import PRE_TOKENIZER
from dsv4_model.bpe.table_build import build_table
from dsv4_model.bpe.table_vocabulary import TableVocabulary
from dsv4_model.tokenizer import TokenizerError, find_tokenizer
from tests.model import tiny

REPOSITORY = Path(__file__).parents[3]
HARD = (
    *("aZ", "éñſ", "中龥", "カ・ー゠", "\u3040\u3097\u3099\u309a", "゛゜", "0٣7½Ⅷ", "!-_`", "«—€+", " "),
    *("\u00a0\u3000", "\n\r", "\t\x0b\x0c\x85\x1c\x1f", "\x00\u200b\u200d\ufffe\ue000\u0378"),
    *("\u0301\u0308\u20e3", "👩💻🏽", "|<>｜▁/", "한글", "don't", "<think>", "</think>", "｜DSML｜"),
    *("<｜User｜>", "<｜begin▁of▁sentence｜>", "<｜begin▁of▁s"),
)
"""Characters of every class, from in and outside of the ranges, and texts of special tokens."""
_PIECES = st.one_of(
    st.sampled_from(HARD), st.sampled_from("".join(HARD)), st.characters(exclude_categories=["Cs"])
)
TEXTS = st.lists(_PIECES, max_size=40).map("".join)

Both = tuple[TableVocabulary, LibraryVocabulary]


@cache
def trained() -> str:
    """The text of a tokenizer.json with a thousand merges, learnt from this repository."""
    from tokenizers import Tokenizer as Library
    from tokenizers import models, trainers

    base = tiny.tokenizer_definition() | {"pre_tokenizer": PRE_TOKENIZER, "added_tokens": []}
    learner = Library.from_str(json.dumps(base))
    learner.model = models.BPE()
    sources = sorted(REPOSITORY.glob("model/dsv4_model/*.py"))
    corpus = [file.read_text(encoding="utf-8") for file in sources]
    trainer = trainers.BpeTrainer(
        vocab_size=1256, show_progress=False, initial_alphabet=sorted(byte_alphabet())
    )
    learner.train_from_iterator([*corpus, "".join(HARD) * 50], trainer)
    model = json.loads(learner.to_str())["model"]
    size = len(model["vocab"])
    added = [
        token | {"id": size + at, "normalized": token["content"].endswith("think>")}
        for at, token in enumerate(tiny.tokenizer_definition()["added_tokens"])
    ]
    return json.dumps(base | {"model": model, "added_tokens": added})


@cache
def own() -> Both:
    return TableVocabulary(build_table(trained())), LibraryVocabulary.from_json(trained())


@cache
def deepseeks() -> Both:
    try:
        source = find_tokenizer()
    except TokenizerError as error:
        pytest.skip(str(error))
    return TableVocabulary(build_table(source.read_text(encoding="utf-8"))), LibraryVocabulary.from_file(
        source
    )
