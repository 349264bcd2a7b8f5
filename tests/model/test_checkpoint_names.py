"""What transformers wrote is read as if it were the original, in both of its naming schemes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsv4_model.checkpoint import CheckpointError, load_model, open_checkpoint, save_checkpoint
from dsv4_model.checkpoint_names import official_name
from dsv4_model.config import ConfigError, ModelConfig
from dsv4_model.transformer import DeepseekV4
from dsv4_model.weights import ModelWeights, matrices_of
from tests.model import tiny
from tests.model.random_model import TINY, random_ids, random_model
from tests.model.test_transformers_parity import RENAMES, SHAPE, twin

SCHEMES = pytest.mark.parametrize("original", [True, False], ids=["mixed_names", "transformers_names"])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[DeepseekV4, Any, dict[bool, Path]]:
    """Our model, the same in transformers, and what that wrote with ``save_original_format`` on and off."""
    model = random_model(TINY, 7, hidden_size=64, moe_intermediate_size=48, **SHAPE)
    other = twin(model)
    root = tmp_path_factory.mktemp("transformers")
    for original in (True, False):
        other.save_pretrained(root / str(original), save_original_format=original)
    return model, other, {original: root / str(original) for original in (True, False)}


@SCHEMES
def test_what_transformers_wrote_gives_its_logits(
    saved: tuple[DeepseekV4, Any, dict[bool, Path]], original: bool
) -> None:
    model, other, folders = saved
    loaded = load_model(folders[original])
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    ids = random_ids(model.config, 1, 150, 3)
    with torch.no_grad():
        expected = other(input_ids=ids, use_cache=False).logits
        assert expected.std() > 0.1
        assert (loaded(ids, loaded.new_state()) - expected).abs().max() < 1e-4


@SCHEMES
def test_the_weights_are_mapped_and_no_expert_is_copied(
    saved: tuple[DeepseekV4, Any, dict[bool, Path]], original: bool
) -> None:
    model, _, folders = saved
    weights, expected = ModelWeights.open(folders[original]), ModelWeights.of_module(model)
    assert weights.mtp is None
    for ours, theirs in zip(matrices_of(weights), matrices_of(expected), strict=False):
        assert torch.equal(ours.dense(), theirs.dense())
    storages = set()
    for n, layer in enumerate(weights.layers):
        for a, b in zip(layer.experts, expected.layers[n].experts, strict=True):
            assert all(torch.equal(x.data, y.data) for x, y in zip(a.matrices, b.matrices, strict=True))
            storages |= {x.data.untyped_storage().data_ptr() for x in a.matrices}
    assert storages == {weights.embed.data.untyped_storage().data_ptr()}  # one mapping of one file


@SCHEMES
def test_the_configuration_is_read_back(
    saved: tuple[DeepseekV4, Any, dict[bool, Path]], original: bool
) -> None:
    model, _, folders = saved
    ours, theirs = model.config.to_dict(), ModelConfig.from_file(folders[original]).to_dict()
    layers = model.config.num_hidden_layers
    ours["compress_ratios"] = ours["compress_ratios"][:layers]  # transformers has no draft block
    ours["torch_dtype"] = "float32"
    assert theirs == ours


def test_a_configuration_with_quantisation_survives_transformers() -> None:
    transformers = pytest.importorskip("transformers.models.deepseek_v4")
    raw = {
        **TINY.to_dict(),
        "compress_ratios": [0, 4, 128, 4, 128],
        "expert_dtype": "fp4",
        "rope_scaling": None,
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    }
    written = transformers.DeepseekV4Config(**{k: v for k, v in raw.items() if k != "model_type"}).to_dict()
    for key in ("compress_ratios", "num_hash_layers", "rope_scaling", "expert_dtype"):
        written.pop(key, None)
    config = ModelConfig.from_dict(written)
    assert (config.compress_ratios, config.num_hash_layers) == ((0, 4, 128, 4, 128), 2)
    assert (config.rope_scaling, config.expert_dtype) == (None, "fp4")


REPLACED = ("compress_ratios", "num_hash_layers", "rope_scaling")
CONFIGURATION: dict[str, Any] = {
    **{k: v for k, v in TINY.to_dict().items() if k not in REPLACED},
    "layer_types": ["sliding_attention"] * 5,
    "mlp_layer_types": ["hash_moe"] * 2 + ["moe"] * 3,
    "rope_parameters": {"main": {"rope_theta": 5.0}, "compress": {"rope_theta": 7.0, "rope_type": "default"}},
}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"layer_types": ["full_attention"] * 5}, r"layer_types\[0\]"),
        ({"layer_types": "sliding_attention"}, "layer_types"),
        ({"compress_rates": 4}, "compress_rates"),
        ({"mlp_layer_types": ["moe", "hash_moe", "moe", "moe", "moe"]}, "mlp_layer_types"),
        ({"mlp_layer_types": ["dense"] * 5}, "mlp_layer_types"),
        ({"rope_parameters": [1]}, "rope_parameters"),
        ({"rope_parameters": {"main": 3}}, "rope_parameters.main"),
        ({"rope_parameters": {"main": {"rope_type": "yarn"}}}, "rope_parameters.main.rope_type"),
        ({"rope_parameters": {"compress": {"attention_factor": 1.2}}}, "attention_factor"),
        ({"rope_parameters": {"compress": {"rope_type": "linear"}}}, "rope_scaling.type"),
    ],
)
def test_schedules_this_architecture_does_not_have(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        ModelConfig.from_dict(CONFIGURATION | changes)


def test_rotary_bases_of_both_kinds_of_layer() -> None:
    config = ModelConfig.from_dict(CONFIGURATION)
    assert (config.rope_theta, config.compress_rope_theta, config.rope_scaling) == (5.0, 7.0, None)
    assert (config.num_hash_layers, config.compress_ratios) == (2, (0,) * 5)


def theirs(name: str) -> str:
    name = re.sub(r"\.scale$", ".weight_scale_inv", name)
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def stacked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stored tensors, quantised or not, as transformers names and stacks them."""
    out: dict[str, Tensor] = {}
    experts: dict[str, dict[int, dict[str, Tensor]]] = {}
    for name, value in tensors.items():
        match re.match(r"(.*\.ffn\.experts)\.(\d+)\.(.*)", name):
            case None:
                if not name.startswith("mtp."):
                    out[theirs(name)] = value
            case found:
                experts.setdefault(theirs(found[1]), {}).setdefault(int(found[2]), {})[found[3]] = value
    for prefix, parts in experts.items():
        for kind, suffix in (("weight", ""), ("scale", "_scale_inv")):
            raw = [
                {n: v.view(torch.uint8) for n, v in parts[e].items() if n.endswith(kind)}
                for e in sorted(parts)
            ]
            dtype = parts[0][f"w1.{kind}"].dtype
            both = torch.stack([torch.cat((p[f"w1.{kind}"], p[f"w3.{kind}"])) for p in raw])
            prefix = theirs(f"model.{prefix}") if not prefix.startswith("model.") else prefix
            out[f"{prefix}.gate_up_proj{suffix}"] = both.view(dtype)
            out[f"{prefix}.down_proj{suffix}"] = torch.stack([p[f"w2.{kind}"] for p in raw]).view(dtype)
    return out


Restack = Callable[[Callable[[dict[str, Tensor]], object]], Path]


@pytest.fixture
def restack(tmp_path: Path) -> Restack:
    """A quantised checkpoint, changed and then named as transformers names it."""
    save_checkpoint(tiny.model(moe_intermediate_size=128), tmp_path / "official")

    def make(change: Callable[[dict[str, Tensor]], object]) -> Path:
        folder = shutil.copytree(tmp_path / "official", tmp_path / "stacked")
        tensors = load_file(folder / "model.safetensors")
        renamed = stacked(tensors)
        change(renamed)
        save_file(renamed, folder / "model.safetensors")
        return folder

    return make


def test_packed_experts_are_split_with_their_scales(restack: Restack, tmp_path: Path) -> None:
    folder = restack(lambda tensors: None)
    names = set(load_file(folder / "model.safetensors"))
    assert "model.layers.0.mlp.experts.gate_up_proj_scale_inv" in names
    assert "model.layers.0.self_attn.q_a_proj.weight_scale_inv" in names
    ours, expected = load_model(folder).state_dict(), load_model(tmp_path / "official").state_dict()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    parts = open_checkpoint(folder)
    one = parts.stored("layers.1.ffn.experts.2.w3.weight")
    assert torch.equal(one, open_checkpoint(tmp_path / "official").stored("layers.1.ffn.experts.2.w3.weight"))
    assert one.dtype == torch.int8 and parts.info("layers.1.ffn.experts.2.w3.scale").shape == (128, 3)


def test_an_fp8_stack_splits_only_at_whole_blocks(restack: Restack) -> None:
    name = "model.layers.0.mlp.experts.gate_up_proj"

    def odd(tensors: dict[str, Tensor]) -> None:
        tensors[name] = torch.zeros(4, 2 * 96, 96).to(torch.float8_e4m3fn)

    with pytest.raises(CheckpointError, match="doesn't divide into experts") as caught:
        open_checkpoint(restack(odd))
    assert caught.value.tensor == name


def test_a_name_that_is_there_twice(restack: Restack) -> None:
    twin = "model.layers.0.attn.q_norm.weight"
    with pytest.raises(CheckpointError, match="is there twice"):
        open_checkpoint(restack(lambda tensors: tensors.update({twin: torch.ones(48)})))


def test_every_official_name_has_one_meaning() -> None:
    model = tiny.model(with_mtp=True)
    for name in model.state_dict():
        assert official_name(name) == name
        assert official_name(f"model.{name}") == name
        if not name.startswith("mtp.") and ".ffn.experts." not in name:
            assert official_name(theirs(name)) == name


def test_an_unknown_tensor_is_still_refused(restack: Restack) -> None:
    folder = restack(lambda t: t.update({"model.layers.0.self_attn.extra.weight": torch.ones(2)}))
    with pytest.raises(CheckpointError, match=r"layers\.0\.attn\.extra\.weight.*has no such tensor"):
        load_model(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "deepseek_v4"
