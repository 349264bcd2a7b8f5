"""The shipped checkpoint: its size, its format, and the same logits as an independent implementation."""

from __future__ import annotations

import json

import pytest
import torch

from dsv4_model.checkpoint import load_model
from dsv4_model.engine import Engine
from dsv4_model.nano import WEIGHTS
from dsv4_model.nano.shape import CONFIG
from dsv4_model.sampling import SamplingParams

PROMPT = "<｜begin▁of▁sentence｜>def merge_basket(price):\n    return price + 7\n" * 9


def test_it_is_small_enough_for_the_wheel() -> None:
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) < 25_000_000


def test_its_config_is_the_shape_that_training_uses() -> None:
    config = json.loads((WEIGHTS / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "deepseek_v4"
    assert tuple(config["compress_ratios"]) == CONFIG.compress_ratios
    assert config["hc_mult"] == 4
    assert config["index_head_dim"] >= 64


def test_it_loads_and_answers_the_same_twice() -> None:
    engine = Engine.load("nano")
    ids = engine.tokenizer.encode(PROMPT, True)
    answers = []
    for _ in range(2):
        sequence = engine.sequence()
        sequence.sync(ids)
        answers.append(list(sequence.generate(SamplingParams(temperature=0.0, max_tokens=8))))
    assert answers[0] == answers[1]


def test_transformers_computes_the_same_logits_from_these_weights() -> None:
    pytest.importorskip("transformers.models.deepseek_v4", reason="needs a transformers with DeepSeek-V4")
    from tests.model.test_transformers_parity import twin

    model = load_model(WEIGHTS)
    ids = torch.tensor([Engine.load("nano").tokenizer.encode(PROMPT, True)])
    with torch.no_grad():
        ours = model(ids, model.new_state())
        theirs = twin(model)(input_ids=ids, use_cache=False).logits
    assert ours.std() > 0.5
    assert (ours - theirs).abs().max() < 1e-3 * ours.abs().max()
