from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsv4_model import checkpoint_writer
from dsv4_model.checkpoint import CheckpointError, load_model, open_checkpoint, save_checkpoint
from dsv4_model.config import ConfigError
from dsv4_model.transformer import DeepseekV4
from tests.fixtures_path import SHARED
from tests.model import tiny


def golden(variant: str) -> Path:
    if SHARED is None:
        pytest.skip("shared fixtures are not present")
    return SHARED / "golden_tiny" / variant


@pytest.fixture(scope="module")
def model() -> DeepseekV4:
    return tiny.model(with_mtp=True)


@pytest.fixture(scope="module")
def saved(model: DeepseekV4, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model quantised in one file, quantised in shards, unquantised. Copy before damaging."""
    root = tmp_path_factory.mktemp("saved")
    save_checkpoint(model, root / "single")
    save_checkpoint(model, root / "sharded", shard=True)
    save_checkpoint(model, root / "plain", quantize=False)
    return {name: root / name for name in ("single", "sharded", "plain")}


@pytest.fixture
def single(saved: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(saved["single"], tmp_path / "single")


@pytest.fixture
def sharded(saved: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(saved["sharded"], tmp_path / "sharded")


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def same(a: DeepseekV4, b: DeepseekV4) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def prefill(model: DeepseekV4, ids: Tensor) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(ids.long()[None], model.new_state())
    return logits[0]


def test_golden_fp32_gives_the_recorded_logits() -> None:
    folder = golden("fp32")
    recorded = load_file(folder / "golden.safetensors")
    logits = prefill(load_model(folder), recorded["input_ids"][:300])
    assert (logits - recorded["prefill_logits"]).abs().max() < 1e-4


def test_golden_qat32_is_read_as_stored() -> None:
    folder = golden("qat32")
    stored = load_file(folder / "model.safetensors")
    state = load_model(folder, with_mtp=True).state_dict()
    assert set(state) == {name for name in stored if not name.endswith(".scale")}
    fp4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    for name, value in stored.items():
        scale = stored.get(name.removesuffix(".weight") + ".scale")
        match value.dtype:
            case torch.float8_e8m0fnu:
                continue
            case torch.int8:
                assert scale is not None
                raw = value.view(torch.uint8).int()
                expected = torch.stack((fp4[raw % 16], fp4[raw // 16]), -1).reshape(len(raw), -1, 32)
                expected = (expected * scale.float()[..., None]).reshape(len(raw), -1)
            case torch.float8_e4m3fn:
                assert scale is not None
                expected = value.float()
                for i, j in torch.cartesian_prod(*map(torch.arange, scale.shape)).tolist():
                    block = expected[128 * i : 128 * (i + 1), 128 * j : 128 * (j + 1)]
                    block *= scale.float()[i, j]
            case _:
                expected = value
        assert torch.equal(state[name].to(expected.dtype), expected), name


def test_golden_qat32_end_to_end_is_near_the_recording() -> None:
    folder = golden("qat32")
    recorded = load_file(folder / "golden.safetensors")
    model = load_model(folder)
    model.simulate_quantization = True
    logits = prefill(model, recorded["input_ids"][:300])
    expected = recorded["prefill_logits"]
    # Rounding flips cascade in this noisy network: good ports differ by 0.12 and agree on 89 % of argmaxes.
    assert (logits - expected).norm() / expected.norm() < 0.2
    assert (logits.argmax(-1) == expected.argmax(-1)).float().mean() > 0.8


@pytest.mark.parametrize("shard", [False, True])
def test_saving_quantised_gives_the_official_tensors(tmp_path: Path, shard: bool) -> None:
    folder = golden("qat32")
    model = load_model(folder, with_mtp=True)
    save_checkpoint(model, tmp_path / "out", shard=shard)
    ours, official = open_checkpoint(tmp_path / "out").tensors, open_checkpoint(folder).tensors
    assert {n: (t.dtype, t.shape) for n, t in ours.items()} == {
        n: (t.dtype, t.shape) for n, t in official.items()
    }
    assert same(load_model(tmp_path / "out", with_mtp=True), model)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization_config"]["scale_fmt"] == "ue8m0" and config["expert_dtype"] == "fp4"


def test_unquantised_round_trip_is_exact(model: DeepseekV4, saved: dict[str, Path]) -> None:
    assert same(load_model(saved["plain"], with_mtp=True), model)
    config = json.loads((saved["plain"] / "config.json").read_text())
    assert "quantization_config" not in config and "expert_dtype" not in config


def test_unquantised_in_bf16(model: DeepseekV4, tmp_path: Path) -> None:
    save_checkpoint(model, tmp_path / "b", quantize=False, dtype=torch.bfloat16)
    stored = open_checkpoint(tmp_path / "b").tensors
    assert stored["layers.0.attn.wkv.weight"].dtype == "BF16"
    assert stored["layers.0.hc_attn_fn"].dtype == "F32"
    assert stored["layers.0.ffn.gate.tid2eid"].dtype == "I64"


def test_quantised_round_trip_keeps_values_and_odd_sizes(saved: dict[str, Path], tmp_path: Path) -> None:
    once = load_model(saved["single"], with_mtp=True)
    assert same(load_model(saved["sharded"], with_mtp=True), once)
    save_checkpoint(once, tmp_path / "again")
    assert same(load_model(tmp_path / "again", with_mtp=True), once)
    info = open_checkpoint(saved["single"]).tensors
    assert info["layers.0.attn.wo_b.weight"].shape == (96, 80)
    assert info["layers.0.attn.wo_b.scale"].shape == (1, 1)
    assert info["layers.1.ffn.experts.3.w2.weight"].shape == (96, 32)
    assert info["layers.1.ffn.experts.3.w2.scale"].shape == (96, 2)


def test_shards_hold_one_layer_each(sharded: Path) -> None:
    index = json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"]
    assert index["embed.weight"] == "model-00001-of-00007.safetensors"
    assert index["layers.3.attn_norm.weight"] == "model-00005-of-00007.safetensors"
    assert index["head.weight"] == index["norm.weight"] == "model-00006-of-00007.safetensors"
    assert index["mtp.0.norm.weight"] == "model-00007-of-00007.safetensors"


def test_the_working_dtype_is_what_was_asked_for(saved: dict[str, Path]) -> None:
    state = load_model(saved["single"], dtype=torch.bfloat16).state_dict()
    assert state["layers.0.attn.wkv.weight"].dtype == torch.bfloat16
    assert state["layers.0.hc_attn_fn"].dtype == torch.float32
    assert not any(name.startswith("mtp.") for name in state)


def test_saving_replaces_weights_and_keeps_other_files(
    model: DeepseekV4, sharded: Path, saved: dict[str, Path]
) -> None:
    (sharded / "tokenizer.json").write_text("kept")
    (sharded / "extra").mkdir()
    (sharded / "extra" / "note").write_text("kept too")
    save_checkpoint(model, sharded)
    assert (sharded / "tokenizer.json").read_text() == "kept"
    assert (sharded / "extra" / "note").read_text() == "kept too"
    assert not (sharded / "model.safetensors.index.json").exists()
    assert same(load_model(sharded, with_mtp=True), load_model(saved["single"], with_mtp=True))
    assert [entry.name for entry in sharded.parent.iterdir()] == ["sharded"]
    assert (sharded / "model.safetensors").stat().st_mode & 0o777 == (
        sharded / "config.json"
    ).stat().st_mode & 0o777


def test_a_failed_save_leaves_the_old_checkpoint(
    model: DeepseekV4, single: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {entry.name: entry.read_bytes() for entry in single.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_writer, "save_file", full)
    with pytest.raises(CheckpointError, match="No space left on device") as caught:
        save_checkpoint(model, single)
    assert "free space" in caught.value.remedy
    assert {entry.name: entry.read_bytes() for entry in single.iterdir()} == before
    assert [entry.name for entry in single.parent.iterdir()] == ["single"]


def test_a_save_that_fails_at_the_last_rename_restores_the_old_checkpoint(
    model: DeepseekV4, single: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {entry.name: entry.read_bytes() for entry in single.iterdir()}
    rename = Path.rename

    def stubborn(self: Path, target: Path) -> Path:
        if Path(target) == single and "previous" not in self.name:
            raise OSError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stubborn)
    with pytest.raises(CheckpointError, match="Permission denied"):
        save_checkpoint(model, single)
    assert {entry.name: entry.read_bytes() for entry in single.iterdir()} == before


def test_saving_over_a_file_is_refused(model: DeepseekV4, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("mine")
    with pytest.raises(CheckpointError, match="a file is in the way"):
        save_checkpoint(model, tmp_path / "f")
    assert (tmp_path / "f").read_text() == "mine"


def refused(folder: Path, problem: str, *named: str, with_mtp: bool = False) -> CheckpointError:
    """Loading fails with ``problem``, and the one-line message names what the user must look at."""
    with pytest.raises(CheckpointError, match=problem) as caught:
        load_model(folder, with_mtp=with_mtp)
    message = str(caught.value)
    assert all(part in message for part in named), message
    assert caught.value.remedy and caught.value.remedy in message
    return caught.value


@pytest.mark.parametrize("keep", [0, 5, 100, 10_000, -1])
def test_truncated_file(single: Path, keep: int) -> None:
    file = single / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:keep])
    refused(single, "is truncated", "model.safetensors", "Download or copy the file again")


def test_truncated_and_missing_shard(sharded: Path) -> None:
    shard = sharded / "model-00003-of-00007.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    refused(sharded, "is truncated", shard.name)
    shard.unlink()
    refused(sharded, "the shard is missing", shard.name)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not valid JSON"),
        ("[1]", "has no weight_map"),
        ('{"weight_map": {"embed.weight": 3}}', "has no weight_map"),
        ('{"weight_map": {"embed.weight": "../model.safetensors"}}', "not a file of this folder"),
        ('{"weight_map": {"nowhere": "model-00001-of-00007.safetensors"}}', "is promised by"),
        ("{}", "has no weight_map"),
    ],
)
def test_bad_index(sharded: Path, text: str, problem: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(text)
    refused(sharded, problem)


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (b"not json", "corrupt header"),
        (b"[]", "corrupt header"),
        (b'{"embed.weight": 1}', "corrupt header entry"),
        (b'{"embed.weight": {"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', "don't hold F32"),
        (b'{"embed.weight": {"dtype":"F32","shape":[9],"data_offsets":[0,36]}}', "is truncated"),
        (b'{"embed.weight": {"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', "corrupt header entry"),
    ],
)
def test_bad_header(single: Path, header: bytes, problem: str) -> None:
    data = len(header).to_bytes(8, "little") + header + b"\0" * 8
    (single / "model.safetensors").write_bytes(data)
    refused(single, problem, "model.safetensors")


def test_not_safetensors_at_all(single: Path) -> None:
    (single / "model.safetensors").write_bytes(b"\xff" * 1000)
    refused(single, "is not a safetensors file")


def test_missing_tensor(single: Path) -> None:
    rewrite(single, lambda t: t.pop("layers.2.attn.kv_norm.weight"))
    refused(single, "the tensor is missing", "layers.2.attn.kv_norm.weight", str(single))


def test_missing_scale(single: Path) -> None:
    rewrite(single, lambda t: t.pop("layers.2.attn.wkv.scale"))
    refused(single, "its scale layers.2.attn.wkv.scale is missing", "layers.2.attn.wkv.weight")


def test_misshapen_tensor_tells_both_shapes(single: Path) -> None:
    rewrite(single, lambda t: t.update({"norm.weight": torch.ones(95)}))
    refused(single, r"has shape \[95\] but the model needs \[96\]", "norm.weight")


def test_misshapen_packed_tensor_tells_the_logical_shape(single: Path) -> None:
    name = "layers.0.ffn.experts.1.w1.weight"
    rewrite(single, lambda t: t.update({name: torch.zeros(64, 40, dtype=torch.int8)}))
    refused(single, r"has shape \[64, 80\] \(stored packed as \[64, 40\]\)", name, "[64, 96]")


def test_misshapen_scale(single: Path) -> None:
    name = "layers.0.ffn.experts.1.w1.scale"
    rewrite(single, lambda t: t.update({name: torch.ones(64, 2).to(torch.float8_e8m0fnu)}))
    refused(single, r"has shape \[64, 2\] but its weight needs \[64, 3\]", name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("norm.weight", torch.ones(96, dtype=torch.int64)),
        ("norm.weight", torch.ones(96, dtype=torch.float64)),
        ("layers.0.ffn.gate.tid2eid", torch.ones(272, 2)),
        ("layers.0.attn.wkv.scale", torch.ones(1, 1, dtype=torch.uint8)),
    ],
)
def test_wrong_dtype(single: Path, name: str, value: Tensor) -> None:
    rewrite(single, lambda t: t.update({name: value}))
    refused(single, "is stored as", name)


def test_hash_table_naming_an_absent_expert(single: Path) -> None:
    name = "layers.0.ffn.gate.tid2eid"
    rewrite(single, lambda t: t.update({name: torch.full((272, 2), 7)}))
    refused(single, "names expert 7, but there are 4", name)


@pytest.mark.parametrize(
    "names",
    [
        ["lm_head.weight"],
        ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"],
        ["model.embed_tokens.weight", "model.layers.0.self_attn.q_a_proj.weight", "lm_head.weight"],
    ],
    ids=["fragment", "llama", "deepseek_v3"],
)
def test_transformers_names_of_another_family(single: Path, names: list[str]) -> None:
    save_file({name: torch.ones(2, 2) for name in names}, single / "model.safetensors")
    refused(single, "transformers names, but not those of a DeepSeek-V4", "the original files", min(names))


def test_other_foreign_names(single: Path) -> None:
    save_file({"blk.0.attn_q.weight": torch.ones(2, 2)}, single / "model.safetensors")
    refused(single, "don't carry DeepSeek-V4 names", "blk.0.attn_q.weight")


def test_unknown_tensor_beside_the_known_ones(single: Path) -> None:
    rewrite(single, lambda t: t.update({"layers.9.attn_norm.weight": torch.ones(96)}))
    refused(single, "has no such tensor", "layers.9.attn_norm.weight")


def test_unknown_draft_tensors_are_skipped(single: Path) -> None:
    rewrite(single, lambda t: t.update({"mtp.1.main_proj.weight": torch.ones(96)}))
    assert load_model(single).config.num_hidden_layers == 4


def test_missing_config(single: Path) -> None:
    (single / "config.json").unlink()
    refused(single, "is missing", "config.json")


def test_a_config_that_asks_for_a_giant_is_refused_before_it_is_built(single: Path) -> None:
    raw = json.loads((single / "config.json").read_text())
    for change in (
        {"vocab_size": 2 * 10**9},
        {"n_routed_experts": 10**7},
        {"moe_intermediate_size": 2 * 10**9},
    ):
        (single / "config.json").write_text(json.dumps({**raw, **change}))
        refused(single, "but the model needs")


def test_paths_that_are_no_checkpoint(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "does not exist", "nowhere")
    refused(tmp_path, "holds neither")
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    refused(tmp_path / "m.gguf", "not a checkpoint folder", "llama.cpp")


def test_reading_is_lazy(sharded: Path) -> None:
    """Bytes of a tensor are not touched before it is asked for, and FP8 and FP4 stay as stored."""
    checkpoint = open_checkpoint(sharded)
    assert checkpoint._shards == {}
    assert checkpoint.stored("layers.0.ffn.experts.0.w1.weight").dtype == torch.int8
    assert checkpoint.stored("layers.0.attn.wkv.weight").dtype == torch.float8_e4m3fn
    assert [file.name for file in checkpoint._shards] == ["model-00002-of-00007.safetensors"]


def damage(folder: Path, chance: random.Random) -> None:
    file = chance.choice(sorted(folder.iterdir()))
    data = bytearray(file.read_bytes())
    match chance.randrange(5):
        case 0:
            file.unlink()
        case 1:
            file.write_bytes(data[: chance.randrange(len(data))])
        case 2:
            file.write_bytes(data + chance.randbytes(chance.randrange(1, 200)))
        case _:
            # mostly in the part that is parsed
            reach = min(len(data), chance.choice([8, 200, 4000, len(data)]))
            for _ in range(chance.randrange(1, 6)):
                data[chance.randrange(reach)] = chance.randrange(256)
            file.write_bytes(data)


def test_random_damage_gives_a_named_error_or_a_model(saved: dict[str, Path], tmp_path: Path) -> None:
    chance = random.Random(20260424)
    outcomes: dict[str, int] = {}
    for _ in range(150):
        folder = shutil.copytree(saved[chance.choice(["single", "sharded"])], tmp_path / "damaged")
        damage(folder, chance)
        outcome: Any = "loaded"
        try:
            load_model(folder)
        except (CheckpointError, ConfigError) as error:
            outcome = type(error).__name__
            assert "\n" not in str(error)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        shutil.rmtree(folder)
    assert outcomes.keys() >= {"CheckpointError", "loaded"}


def test_a_checkpoint_that_changes_under_a_running_process(sharded: Path) -> None:
    checkpoint = open_checkpoint(sharded)
    checkpoint.stored("layers.0.attn.wkv.weight")
    checkpoint.verify_unchanged()
    shard = sharded / "model-00003-of-00007.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data)
    with pytest.raises(CheckpointError, match="has changed since") as caught:
        checkpoint.verify_unchanged()
    assert caught.value.file == shard and "Load the model again" in caught.value.remedy
    with pytest.raises(CheckpointError, match="has changed since"):
        checkpoint.stored("layers.1.attn.wkv.weight")  # first use of that shard
    shard.unlink()
    with pytest.raises(CheckpointError, match="can't be found any more") as caught:
        checkpoint.verify_unchanged()
    assert caught.value.file == shard
    shard.write_bytes(data)
    open_checkpoint(sharded).verify_unchanged()


def test_a_shard_replaced_by_one_of_the_same_size_and_time(sharded: Path) -> None:
    checkpoint = open_checkpoint(sharded)
    shard = sharded / "model-00003-of-00007.safetensors"
    shutil.copy2(shard, sharded / "copy")
    (sharded / "copy").replace(shard)
    with pytest.raises(CheckpointError, match="has changed since"):
        checkpoint.verify_unchanged()


def test_offsets_lead_to_the_bytes(single: Path) -> None:
    data = (single / "model.safetensors").read_bytes()
    tensors = load_file(single / "model.safetensors")
    for name, info in open_checkpoint(single).tensors.items():
        stored = data[info.offset : info.offset + info.nbytes]
        assert stored == tensors[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def test_bytes_behind_the_last_tensor(single: Path) -> None:
    file = single / "model.safetensors"
    file.write_bytes(file.read_bytes() + b"\0" * 3)
    refused(single, "has 3 bytes more than its header describes", file.name)
