"""V4-Nano's MTP block: what it drafts, how it is trained, how it joins the shipped checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dsv4_model.checkpoint import load_model
from dsv4_model.nano import WEIGHTS
from dsv4_model.nano.acceptance import accepted, episodes, own_words
from dsv4_model.nano.data.record import Episode
from dsv4_model.nano.examples import Examples, batches
from dsv4_model.nano.export import FILE, export
from dsv4_model.nano.train_mtp import RECIPE, MtpTrainer
from dsv4_model.tokenizer import Tokenizer
from dsv4_model.transformer import DeepseekV4


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(WEIGHTS / "tokenizer.json")


@pytest.fixture(scope="module")
def played(tokenizer: Tokenizer) -> list[tuple[list[int], Episode]]:
    return list(episodes(2, tokenizer, first=7_000))


@pytest.fixture
def model() -> DeepseekV4:
    return load_model(WEIGHTS, with_mtp=True)


def _shares(model: DeepseekV4, played: list[tuple[list[int], Episode]]) -> list[float]:
    counts = [accepted(model, prefix, episode, 2) for prefix, episode in played]
    first, second = torch.stack(counts).sum(0).tolist()
    assert first[1] > 50
    return [first[0] / first[1], second[0] / max(second[1], 1)]


def test_the_shipped_block_drafts_what_the_model_says(
    model: DeepseekV4, played: list[tuple[list[int], Episode]]
) -> None:
    first, second = _shares(model, played)
    assert first > 0.75
    assert second > 0.5


def test_a_block_that_says_nothing_is_not_accepted(
    model: DeepseekV4, played: list[tuple[list[int], Episode]]
) -> None:
    with torch.no_grad():
        for parameter in model.mtp.parameters():
            parameter.zero_()
    assert _shares(model, played)[0] < 0.2


def test_own_words_follow_the_request_up_to_the_end(
    model: DeepseekV4, played: list[tuple[list[int], Episode]], tokenizer: Tokenizer
) -> None:
    prefix, episode = played[0]
    said = own_words(model, prefix, episode, tokenizer.eos_id)
    opening = sum(not sampled for _, sampled in said)
    assert said[:opening] == episode[:opening]
    assert said[-1] == (tokenizer.eos_id, True)


@pytest.fixture
def trainer(tmp_path: Path, played: list[tuple[list[int], Episode]], tokenizer: Tokenizer) -> MtpTrainer:
    (tmp_path / "data").mkdir()
    (tmp_path / "out").mkdir()
    examples = Examples.pack(played[0][0], [episode for _, episode in played] * 2)
    examples.save(tmp_path / "data" / "shard-0.npz")
    return MtpTrainer(tmp_path / "data", tokenizer, RECIPE, tmp_path / "out")


def test_the_untrained_block_already_drafts(
    trainer: MtpTrainer, played: list[tuple[list[int], Episode]]
) -> None:
    assert _shares(trainer.model, played)[0] > 0.3


def test_only_the_block_learns(trainer: MtpTrainer, model: DeepseekV4) -> None:
    rng = np.random.default_rng(0)
    batch = next(
        batches(trainer.examples, 1200, rng, context_weight=0.03, pad=2, vocabulary=2048, follow=0.0)
    )
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    losses = [trainer.update(batch, 1e-3, fresh=False)[0] for _ in range(5)]
    assert losses[4] < losses[2] < losses[0]  # every second step has a second pass
    moved = {k for k, value in trainer.model.state_dict().items() if not torch.equal(value, before[k])}
    assert {"mtp.0.e_proj.weight", "mtp.0.attn.wkv.weight", "mtp.0.ffn.gate.bias"} <= moved
    assert all(name.startswith("mtp.") for name in moved)


def test_the_block_joins_the_checkpoint_without_touching_the_rest(
    trainer: MtpTrainer, tmp_path: Path
) -> None:
    trainer.save()
    export(trainer.out / "state.pt", tmp_path / "new", quantize=True)
    old, new = load_file(WEIGHTS / FILE), load_file(tmp_path / "new" / FILE)
    assert old.keys() == new.keys()
    for name, value in old.items():
        if not name.startswith("mtp."):
            assert value.dtype == new[name].dtype
            assert torch.equal(value.view(torch.uint8), new[name].view(torch.uint8)), name
    loaded = load_model(tmp_path / "new", with_mtp=True).mtp[0].state_dict()
    for name, value in trainer.model.mtp[0].state_dict().items():
        assert (loaded[name] - value).abs().max() <= 0.13 * value.abs().max(), name


def test_a_block_for_other_weights_is_refused(trainer: MtpTrainer, tmp_path: Path) -> None:
    with torch.no_grad():
        trainer.model.norm.weight.add_(1)
    trainer.save()
    with pytest.raises(ValueError, match="another checkpoint"):
        export(trainer.out / "state.pt", tmp_path / "new", quantize=True)
    assert not (tmp_path / "new").exists()
