"""V4-Nano's start, batches and trainer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dsv4_model.nano import WEIGHTS
from dsv4_model.nano.examples import Examples, Relabelling, batches, copy_batch
from dsv4_model.nano.initialise import initialise
from dsv4_model.nano.muon import ADAMW_RMS, Muon, orthogonal
from dsv4_model.nano.shape import CONFIG
from dsv4_model.nano.train import Recipe, Trainer, parameter_kinds
from dsv4_model.tokenizer import Tokenizer
from dsv4_model.transformer import DeepseekV4


def _examples(count: int = 40) -> Examples:
    rng = np.random.default_rng(0)
    episodes = [
        [(int(i), bool(k % 2)) for k, i in enumerate(rng.integers(40, 2000, rng.integers(30, 100)))]
        for _ in range(count)
    ]
    return Examples.pack([0, 50, 51, 52], episodes)


def test_the_untrained_model_already_copies() -> None:
    torch.manual_seed(0)
    model = DeepseekV4(CONFIG, with_mtp=False)
    initialise(model)
    once = torch.randint(40, CONFIG.vocab_size, (2, 60))
    gap = torch.randint(40, CONFIG.vocab_size, (2, 17))
    ids = torch.cat((once, gap, once), 1)
    with torch.no_grad():
        guess = model(ids, model.new_state(2)).argmax(-1)
    repeated = guess[:, 60 + 17 + 1 : -1] == ids[:, 60 + 17 + 2 :]
    assert repeated.float().mean() > 0.9


def test_shards_come_back_as_they_were(tmp_path: Path) -> None:
    examples = _examples()
    examples.save(tmp_path / "shard-0.npz")
    examples.save(tmp_path / "shard-1.npz")
    loaded = Examples.load(tmp_path)
    assert len(loaded) == 2 * len(examples)
    assert np.array_equal(loaded.ids, np.tile(examples.ids, 2))
    assert loaded.offsets[-1] == len(loaded.ids)


def test_shards_of_different_prompts_are_refused(tmp_path: Path) -> None:
    _examples().save(tmp_path / "shard-0.npz")
    other = _examples()
    Examples(other.prefix + 1, other.ids, other.sampled, other.offsets).save(tmp_path / "shard-1.npz")
    with pytest.raises(ValueError, match="different prompts"):
        Examples.load(tmp_path)
    with pytest.raises(ValueError, match="no shard"):
        Examples.load(tmp_path / "nowhere")


def test_only_sampled_tokens_weigh_fully() -> None:
    examples = _examples()
    seen = 0
    rng = np.random.default_rng(1)
    for batch in batches(examples, 512, rng, context_weight=0.0, pad=2, vocabulary=2048, follow=0.0):
        for row, weights in zip(batch.ids.numpy(), batch.weights.numpy(), strict=True):
            targets = row[1:][weights == 1.0]
            owner = next(
                i
                for i in range(len(examples))
                if np.array_equal(
                    row[: (c := examples.offsets[i + 1] - examples.offsets[i])], _ids(examples, i)
                )
                and c
            )
            low, high = examples.offsets[owner], examples.offsets[owner + 1]
            assert np.array_equal(targets, examples.ids[low + 1 : high][examples.sampled[low + 1 : high]])
            seen += 1
    assert seen > 10


def _ids(examples: Examples, i: int) -> np.ndarray:
    return examples.ids[examples.offsets[i] : examples.offsets[i + 1]]


def test_relabelling_keeps_structure_and_repetition() -> None:
    names = np.arange(100, 200)
    relabelling = Relabelling(names, np.asarray([77]), share=1.0)
    ids = np.asarray([3, 100, 101, 4, 100, 101, 5])
    new = relabelling.apply(ids, 2048, np.random.default_rng(0))
    assert new[[0, 3, 6]].tolist() == [3, 4, 5]
    assert new[1:3].tolist() == new[4:6].tolist() != [100, 101]
    kept = np.asarray([77, 100])
    assert relabelling.apply(kept, 2048, np.random.default_rng(0)) is kept


def test_copied_spans_really_are_copies() -> None:
    batch = copy_batch(2048, 32, np.random.default_rng(0), rows=2, length=200)
    for row, weights in zip(batch.ids.tolist(), batch.weights.tolist(), strict=True):
        for at in range(2, 200):
            if weights[at] and weights[at - 1]:
                pair = row[at : at + 2]
                assert any(row[i : i + 2] == pair for i in range(at))


def test_orthogonal_keeps_the_directions_and_evens_out_their_sizes() -> None:
    torch.manual_seed(1)
    for rows, columns in ((24, 16), (16, 24), (16, 16)):
        basis = torch.linalg.qr(torch.randn(2, rows, rows)).Q[..., :, : min(rows, columns)]
        other = torch.linalg.qr(torch.randn(2, columns, columns)).Q[..., : min(rows, columns), :]
        sizes = torch.logspace(-1, 1, min(rows, columns))
        result = orthogonal(basis @ torch.diag(sizes) @ other)
        found = torch.linalg.svdvals(result)
        assert found.min() > 0.5 and found.max() < 1.4
        diagonal = (basis.mT @ result @ other.mT).diagonal(dim1=-2, dim2=-1)
        assert diagonal.min() > 0.5


def test_muon_steps_by_its_rate_and_leaves_what_has_no_gradient() -> None:
    torch.manual_seed(2)
    moved, alone = torch.nn.Parameter(torch.zeros(32, 64)), torch.nn.Parameter(torch.ones(32, 64))
    optimiser = Muon([moved, alone], lr=0.01, weight_decay=0.1)
    moved.grad = torch.randn(32, 64)
    optimiser.step()
    assert torch.equal(alone, torch.ones(32, 64))
    assert 0.5 < moved.square().mean().sqrt() / (0.01 * ADAMW_RMS) < 1.5
    assert (moved * moved.grad).sum() < 0
    restored = Muon([moved, alone], lr=0.01)
    restored.load_state_dict(optimiser.state_dict())
    assert torch.equal(restored.state[moved]["momentum"], optimiser.state[moved]["momentum"])


def test_every_parameter_is_trained_by_one_optimiser() -> None:
    model = DeepseekV4(CONFIG, with_mtp=False)
    matrices, tables, vectors = parameter_kinds(model)
    assert len(matrices) + len(tables) + len(vectors) == len(list(model.parameters()))
    names = {id(p): n for n, p in model.named_parameters()}
    assert {"embed.weight", "head.weight"} <= {names[id(p)] for p in tables}
    assert any("experts.3.w1" in names[id(p)] for p in matrices)


def test_training_lowers_the_loss_and_goes_on_after_a_cut(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    out.mkdir()
    _examples(6).save(data / "shard-0.npz")
    recipe = Recipe(tokens=256, warmup=1, rate=1e-3, copy_share=0.0)
    trainer = Trainer(data, Tokenizer.from_file(WEIGHTS / "tokenizer.json"), recipe, out)
    batch = next(
        batches(trainer.examples, 256, np.random.default_rng(0), context_weight=0.1, pad=2, vocabulary=2048)
    )
    losses = [trainer.update(batch, 1e-3, fresh=False)[0] for _ in range(4)]
    assert losses[-1] < losses[0]
    trainer.save()
    again = Trainer(data, trainer.tokenizer, recipe, out)
    assert again.step == 4
    same = {k: torch.equal(v, again.model.state_dict()[k]) for k, v in trainer.model.state_dict().items()}
    assert all(same.values())


def test_a_run_ends_in_time_and_logs(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    out.mkdir()
    _examples(6).save(data / "shard-0.npz")
    trainer = Trainer(data, Tokenizer.from_file(WEIGHTS / "tokenizer.json"), Recipe(tokens=128), out)
    trainer.step = 19
    trainer.run(minutes=0.02, decay=0.5)
    assert (out / "state.pt").is_file()
    entries = [json.loads(row) for row in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(entry["loss"] > 0 for entry in entries)


def test_the_curve_is_a_picture_of_all_entries() -> None:
    from xml.etree import ElementTree

    from dsv4_model.nano.curve import draw

    entries = [{"step": s, "loss": 2.0 / s, "right": 1 - 0.5 / s} for s in (20, 40, 60)]
    root = ElementTree.fromstring(draw(entries))
    lines = [e for e in root.iter() if e.tag.endswith("polyline")]
    assert [len(line.attrib["points"].split()) for line in lines] == [3, 3]
