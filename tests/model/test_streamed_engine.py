"""An engine whose routed experts are streamed says what one says that has them all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dsv4_model.checkpoint import CheckpointError, save_checkpoint
from dsv4_model.engine import Engine, EngineOptions
from dsv4_model.expert_source import LayerExperts
from dsv4_model.expert_store import ExpertBudgetError
from dsv4_model.kernels.library import NativeUnavailableError, load_library
from dsv4_model.passes import Piece, Rows
from tests.model import tiny

PROMPT = [7, 9, 30, 44, 60, 100, 101, 102, 103, 250]
SLOT = 9792


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("streamed") / "m"
    save_checkpoint(tiny.model(with_mtp=True, n_routed_experts=8), path, shard=True)
    (path / "tokenizer.json").write_text(json.dumps(tiny.tokenizer_definition()))
    return path


def open_engine(folder: Path, native: bool, budget: int | None) -> Engine:
    if native:
        try:
            load_library()
        except NativeUnavailableError as error:
            pytest.skip(str(error))
    return Engine.load(folder, memory_budget=budget, options=EngineOptions(native=native))


def logits(engine: Engine) -> Tensor:
    """Of a prompt, of decoded tokens, and of a second prompt; ``[tokens, vocab]``."""
    cache = engine.new_cache()
    rows = []
    for ids in (PROMPT, [5], [12], [33], [200], PROMPT * 4):
        cache.prepare(len(ids))
        rows.append(engine.forward([Piece(cache, ids, Rows.ALL)])[0])
    return torch.cat(rows)


@pytest.mark.parametrize("native", [False, True], ids=["torch", "native"])
@pytest.mark.parametrize("slots", [2, 5, 100])
def test_logits_do_not_depend_on_the_budget(folder: Path, native: bool, slots: int) -> None:
    whole, streamed = (open_engine(folder, native, budget) for budget in (None, slots * SLOT))
    expected = logits(whole)
    assert expected.std() > 1
    assert torch.equal(logits(streamed), expected)
    experts = streamed.weights.layers[0].experts
    assert isinstance(experts, LayerExperts)
    assert experts.store.nbytes <= slots * SLOT
    assert experts.store.statistics.misses > 0
    experts.store.close()


def test_too_small_a_budget_is_refused_by_the_engine(folder: Path) -> None:
    with pytest.raises(ExpertBudgetError, match=f"at least {2 * SLOT:,} bytes"):
        open_engine(folder, False, 2 * SLOT - 1)


@pytest.mark.parametrize("native", [False, True], ids=["torch", "native"])
def test_a_file_that_shrinks_under_the_engine_is_named(folder: Path, tmp_path: Path, native: bool) -> None:
    copy = tmp_path / "m"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    engine = open_engine(copy, native, 2 * SLOT)
    shard = copy / "model-00003-of-00007.safetensors"
    with shard.open("r+b") as stream:  # one expert's byte changes: nothing else could notice
        stream.seek(-1, 2)
        stream.write(b"\0")
    with pytest.raises(CheckpointError, match="has changed since") as caught:
        logits(engine)
    assert caught.value.file == shard
    with pytest.raises(CheckpointError):
        engine.check()
