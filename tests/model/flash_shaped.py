"""Checkpoints with the layers of DeepSeek-V4-Flash at full size, but few of them, and random weights.

    python -m tests.model.flash_shaped FOLDER --layers 3 --experts 32

Names, dtypes and shards are the released ones: one file a layer, FP8 linears, packed FP4 experts. A tensor is
made, written and dropped, so that nothing larger than one tensor is ever in memory.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dsv4_model.checkpoint_reader import INDEX_NAME, scale_name_of
from dsv4_model.checkpoint_writer import QUANTIZATION, Storage, storage_of
from dsv4_model.config import ModelConfig, YarnScaling
from dsv4_model.quantization import FP4_GROUP, FP8_BLOCK, quantize_fp8_blocks
from dsv4_model.transformer import DeepseekV4

__all__ = ["flash_config", "layer_payloads", "payload_bytes", "write_flash_shaped"]

_BYTES = {"BF16": 2, "F32": 4, "I64": 8, "F8_E4M3": 1, "F8_E8M0": 1, "I8": 1}
_FP4_EXPONENT = 127 - 7  # random e2m1 codes have an RMS of 2.9, hence weights of 0.023


def flash_config(
    *, ratios: Sequence[int] = (0, 4, 128), experts: int = 32, vocabulary: int = 512, hash_layers: int = 1
) -> ModelConfig:
    """The released sizes, except for what is given."""
    return ModelConfig(
        vocab_size=vocabulary,
        hidden_size=4096,
        num_hidden_layers=len(ratios),
        num_attention_heads=64,
        head_dim=512,
        q_lora_rank=1024,
        o_groups=8,
        o_lora_rank=1024,
        moe_intermediate_size=2048,
        n_routed_experts=experts,
        num_experts_per_tok=6,
        compress_ratios=tuple(ratios),
        num_hash_layers=hash_layers,
        num_nextn_predict_layers=0,
        rope_scaling=YarnScaling(),
        expert_dtype="fp4",
        quantization_config=QUANTIZATION,
    )


def payload_bytes(config: ModelConfig) -> int:
    """Bytes of all tensors."""
    return sum(nbytes for name, shape in _shapes(config) for *_, nbytes in _entries(name, shape))


def layer_payloads(config: ModelConfig) -> list[int]:
    """Bytes of the tensors of each layer."""
    sizes = [0] * config.num_hidden_layers
    for name, shape in _shapes(config):
        if name.startswith("layers."):
            sizes[int(name.split(".")[1])] += sum(nbytes for *_, nbytes in _entries(name, shape))
    return sizes


def write_flash_shaped(folder: Path, config: ModelConfig, seed: int = 0) -> int:
    """Write a checkpoint into a new folder; the same seed gives the same bytes. Bytes of all tensors."""
    folder.mkdir(parents=True)
    shards: dict[tuple[int, int], list[tuple[str, tuple[int, ...]]]] = {}
    for name, shape in _shapes(config):
        match name.split("."):
            case ["embed", *_]:
                key = (0, 0)
            case ["layers", number, *_]:
                key = (1, int(number))
            case _:
                key = (2, 0)
        shards.setdefault(key, []).append((name, shape))
    names: dict[str, str] = {}
    total = 0
    for position, key in enumerate(sorted(shards), 1):
        file = f"model-{position:05d}-of-{len(shards):05d}.safetensors"
        entries = [entry for name, shape in shards[key] for entry in _entries(name, shape)]
        total += _write_shard(folder / file, shards[key], entries, np.random.SFC64([seed, position]), config)
        names |= {name: file for name, *_ in entries}
    index = {"metadata": {"total_size": total}, "weight_map": names}
    (folder / INDEX_NAME).write_text(json.dumps(index), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=2), encoding="utf-8")
    return total


def _shapes(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    # The names of one expert stand for all: building hundreds of modules takes longer than writing them.
    with torch.device("meta"):
        one = replace(config, n_routed_experts=config.num_experts_per_tok)
        state = DeepseekV4(one, with_mtp=False).state_dict()
    for name, tensor in state.items():
        shape = tuple(tensor.shape)
        if ".ffn.experts." not in name:
            routed = name.endswith(("ffn.gate.weight", "ffn.gate.bias"))
            yield name, (config.n_routed_experts, *shape[1:]) if routed else shape
        elif ".experts.0." in name:
            for expert in range(config.n_routed_experts):
                yield name.replace(".experts.0.", f".experts.{expert}."), shape


def _entries(name: str, shape: tuple[int, ...]) -> list[tuple[str, str, tuple[int, ...], int]]:
    """What is stored of one tensor (name, dtype, shape, bytes): itself, and its scale if it has one."""
    match storage_of(name):
        case Storage.FP4:
            rows, columns = shape
            stored = [
                (name, "I8", (rows, columns // 2)),
                (scale_name_of(name), "F8_E8M0", (rows, columns // FP4_GROUP)),
            ]
        case Storage.FP8:
            blocks = tuple(-(-size // FP8_BLOCK) for size in shape)
            stored = [(name, "F8_E4M3", shape), (scale_name_of(name), "F8_E8M0", blocks)]
        case Storage.FP32:
            stored = [(name, "F32", shape)]
        case Storage.INT64:
            stored = [(name, "I64", shape)]
        case _:
            stored = [(name, "BF16", shape)]
    return [(n, dtype, size, _BYTES[dtype] * int(np.prod(size))) for n, dtype, size in stored]


def _write_shard(
    file: Path,
    tensors: Sequence[tuple[str, tuple[int, ...]]],
    entries: Sequence[tuple[str, str, tuple[int, ...], int]],
    bits: np.random.SFC64,
    config: ModelConfig,
) -> int:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape, nbytes in entries:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    chance = np.random.Generator(bits)
    with file.open("wb") as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        for name, shape in tensors:
            for part in _values(name, shape, chance, config):
                stream.write(part.contiguous().view(-1).view(torch.uint8).numpy().data)
    return offset


def _values(
    name: str, shape: tuple[int, ...], chance: np.random.Generator, config: ModelConfig
) -> Iterator[Tensor]:
    match storage_of(name):
        case Storage.FP4:
            rows, columns = shape
            yield torch.frombuffer(bytearray(chance.bytes(rows * columns // 2)), dtype=torch.int8)
            yield torch.full((rows, columns // FP4_GROUP), _FP4_EXPONENT, dtype=torch.uint8)
        case Storage.FP8:
            yield from quantize_fp8_blocks(_normal(shape, chance, shape[1] ** -0.5))
        case Storage.INT64:
            table = [chance.permutation(config.n_routed_experts)[: shape[1]] for _ in range(shape[0])]
            yield torch.from_numpy(np.array(table, dtype=np.int64))
        case Storage.FP32:
            yield _small(name, shape, chance)
        case _:
            near_one = name.endswith("norm.weight")
            deviation = 0.1 if near_one else 1.0 if name == "embed.weight" else shape[-1] ** -0.5
            yield (_normal(shape, chance, deviation) + (1.0 if near_one else 0.0)).bfloat16()


def _small(name: str, shape: tuple[int, ...], chance: np.random.Generator) -> Tensor:
    if name.endswith("_scale"):
        return _normal(shape, chance, 0.01) + 0.1
    if name.endswith("_fn"):
        return _normal(shape, chance, shape[-1] ** -0.5)
    return _normal(shape, chance, 0.1 if name.endswith("gate.bias") else 0.5)


def _normal(shape: tuple[int, ...], chance: np.random.Generator, deviation: float) -> Tensor:
    return torch.from_numpy(chance.standard_normal(shape, dtype=np.float32)) * deviation


def main() -> None:
    """Write one checkpoint, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=3, help="ratios cycle through 0, 4, 128")
    parser.add_argument("--experts", type=int, default=32)
    parser.add_argument("--vocabulary", type=int, default=512)
    parser.add_argument("--hash-layers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    ratios = [(0, 4, 128)[n % 3] for n in range(chosen.layers)]
    config = flash_config(
        ratios=ratios,
        experts=chosen.experts,
        vocabulary=chosen.vocabulary,
        hash_layers=chosen.hash_layers,
    )
    print(f"{write_flash_shaped(chosen.folder, config, chosen.seed):,} bytes of weights in {chosen.folder}")


if __name__ == "__main__":
    main()
