"""The official checkpoint format with all quantisation simulated, module by module on recorded inputs."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dsv4_model.attention import Span
from dsv4_model.checkpoint import load_model
from dsv4_model.transformer import DeepseekV4
from tests.fixtures_path import SHARED

pytestmark = pytest.mark.skipif(SHARED is None, reason="shared fixtures are not present")
LAYERS = range(6)


@pytest.fixture(scope="module")
def model() -> DeepseekV4:
    assert SHARED is not None
    model = load_model(SHARED / "golden_tiny" / "qat32")
    model.simulate_quantization = True
    return model


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    assert SHARED is not None
    folder = SHARED / "golden_tiny" / "qat32"
    return load_file(folder / "modules.safetensors") | load_file(folder / "golden.safetensors")


def share_of_positions_above(bound: float, got: Tensor, wanted: Tensor) -> float:
    worst = (got - wanted).abs().amax(-1) / wanted.abs().max().clamp_min(1)
    return float((worst > bound).float().mean())


@pytest.mark.parametrize("layer", LAYERS)
def test_feed_forward(model: DeepseekV4, recorded: dict[str, Tensor], layer: int) -> None:
    ids = recorded["input_ids"][None, :300]
    with torch.no_grad():
        out = model.layers[layer].ffn(recorded[f"ffn_in.{layer}"][None], ids)[0]
    wanted = recorded[f"ffn_out.{layer}"]
    # A rounding of FP8 may flip with the order of a sum: one position in a hundred, by less than 1e-3.
    assert share_of_positions_above(1e-5, out, wanted) <= 0.01
    assert share_of_positions_above(1e-3, out, wanted) == 0


@pytest.mark.parametrize("layer", LAYERS)
def test_attention_and_what_it_caches(model: DeepseekV4, recorded: dict[str, Tensor], layer: int) -> None:
    x = recorded[f"attn_in.{layer}"][None]
    span = Span(0, 300, model._ropes, x.device)
    attn = model.layers[layer].attn
    selections: list[Tensor] = []
    if attn.indexer is not None:
        attn.indexer.register_forward_hook(lambda m, i, out: selections.append(out))
    with torch.no_grad():
        out, state = attn(x, span, model.new_state().layers[layer])
    assert share_of_positions_above(1e-3, out[0], recorded[f"attn_out.{layer}"]) <= 0.01
    if attn.ratio:
        assert state.entries is not None
        assert (state.entries[0] - recorded[f"main_entries.{layer}"]).abs().max() < 1e-3
    if attn.indexer is not None:
        assert state.index_keys is not None
        assert torch.equal(state.index_keys[0], recorded[f"index_keys.{layer}"])
        for t, expected in enumerate(recorded[f"index_topk_sorted.{layer}"].tolist()):
            assert selections[0][0, t].nonzero()[:, 0].tolist() == sorted(e for e in expected if e >= 0)


def test_the_switch_reaches_every_place_and_can_be_turned_off(model: DeepseekV4) -> None:
    ids = torch.arange(40)[None]
    with torch.no_grad():
        simulated = model(ids, model.new_state())
        model.simulate_quantization = False
        plain = model(ids, model.new_state())
        model.simulate_quantization = True
    assert model.simulate_quantization
    assert 1e-3 < (simulated - plain).abs().max() < 10
