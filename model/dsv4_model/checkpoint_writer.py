"""Writing the official checkpoint format, whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dsv4_model.checkpoint_reader import INDEX_NAME, SINGLE_NAME, CheckpointError, scale_name_of
from dsv4_model.quantization import quantize_fp4, quantize_fp8_blocks

if TYPE_CHECKING:
    from dsv4_model.transformer import DeepseekV4

QUANTIZATION = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "scale_fmt": "ue8m0",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
}


class Storage(StrEnum):
    """How the official format stores a tensor."""

    FP4 = "fp4"
    FP8 = "fp8"
    FP32 = "fp32"
    INT64 = "int64"
    BF16 = "bf16"


_RULES = (
    (re.compile(r"\.ffn\.experts\.\d+\.w[123]\.weight$"), Storage.FP4),
    (re.compile(r"\.attn\.(wq_a|wq_b|wkv|wo_a|wo_b|indexer\.wq_b)\.weight$"), Storage.FP8),
    (re.compile(r"\.ffn\.shared_experts\.w[123]\.weight$"), Storage.FP8),
    (re.compile(r"^mtp\.\d+\.(e_proj|h_proj)\.weight$"), Storage.FP8),
    (re.compile(r"(^|\.)hc_(attn|ffn|head)_(fn|base|scale)$"), Storage.FP32),
    (re.compile(r"\.(attn_sink|ape|gate\.bias)$"), Storage.FP32),
    (re.compile(r"\.gate\.tid2eid$"), Storage.INT64),
)


def storage_of(name: str) -> Storage:
    """The storage class of a tensor by its official name (section 4.2 of the dossier)."""
    return next((storage for pattern, storage in _RULES if pattern.search(name)), Storage.BF16)


def save_checkpoint(
    model: DeepseekV4,
    path: str | Path,
    quantize: bool = True,
    *,
    shard: bool = False,
    dtype: torch.dtype | None = None,
) -> None:
    """Write ``model`` and its ``config.json`` into the folder ``path``.

    The new folder is completed beside ``path`` and then renamed into place, so a reader never meets half a
    checkpoint. Other files of an existing folder (a tokenizer, a README) are kept.

    Args:
        path: folder to create or replace.
        quantize: True writes the released formats: FP8 linears, packed FP4 experts, bf16, fp32. False writes
            matrices unquantised.
        shard: one file a layer with an index, as the releases do; otherwise one ``model.safetensors``.
        dtype: with ``quantize=False``, the dtype of what isn't fp32 or integer by definition; None keeps the
            model's own.

    Raises:
        CheckpointError: the folder can't be written (no space, no permission, a file in its place).
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise CheckpointError("a file is in the way.", "Give a folder to write into.", file=path)
    config = model.config.to_dict()
    config.pop("quantization_config", None)
    config.pop("expert_dtype", None)
    if quantize:
        config.update(quantization_config=QUANTIZATION, expert_dtype="fp4")
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        tensors.update(_stored(name, value.detach().cpu(), quantize, dtype))
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        _write_tensors(temporary, _shards(tensors) if shard else {SINGLE_NAME: tensors}, shard)
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        _set_modes(temporary)
        _keep_other_files(path, temporary)
        _swap(temporary, path)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"the checkpoint can't be written ({error}).",
            "Check free space and permissions; what was there before is untouched.",
            file=path,
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _stored(name: str, value: Tensor, quantize: bool, dtype: torch.dtype | None) -> dict[str, Tensor]:
    storage = storage_of(name)
    match storage:
        case Storage.INT64:
            return {name: value.long().contiguous()}
        case Storage.FP32:
            return {name: value.float().contiguous()}
        case _ if not quantize:
            return {name: value.to(dtype or value.dtype).contiguous()}
        case Storage.FP4 | Storage.FP8:
            weight, scale = (quantize_fp4 if storage is Storage.FP4 else quantize_fp8_blocks)(value)
            return {name: weight.contiguous(), scale_name_of(name): scale.contiguous()}
        case _:
            return {name: value.to(torch.bfloat16).contiguous()}


def _shards(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Released layout: embedding, then one file a layer, then head and final norm, then the draft block."""
    groups: dict[tuple[int, int], dict[str, Tensor]] = {}
    for name, value in tensors.items():
        match name.split("."):
            case ["embed", *_]:
                key = (0, 0)
            case ["layers", number, *_]:
                key = (1, int(number))
            case ["mtp", number, *_]:
                key = (3, int(number))
            case _:
                key = (2, 0)
        groups.setdefault(key, {})[name] = value
    total = len(groups)
    return {
        f"model-{i:05d}-of-{total:05d}.safetensors": groups[key] for i, key in enumerate(sorted(groups), 1)
    }


def _write_tensors(folder: Path, files: Mapping[str, dict[str, Tensor]], indexed: bool) -> None:
    for file, tensors in files.items():
        save_file(tensors, folder / file, metadata={"format": "pt"})
        with (folder / file).open("rb") as stream:
            os.fsync(stream.fileno())
    if indexed:
        total = sum(tensor.nbytes for tensors in files.values() for tensor in tensors.values())
        index: dict[str, Any] = {
            "metadata": {"total_size": total},
            "weight_map": {name: file for file, tensors in files.items() for name in tensors},
        }
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _set_modes(folder: Path) -> None:
    """Both `mkdtemp` and safetensors create for the owner alone; config.json has what the umask grants."""
    mode = (folder / "config.json").stat().st_mode & 0o777
    for file in folder.iterdir():
        file.chmod(mode)
    folder.chmod(mode | 0o100 | (mode & 0o044) >> 2)


def _keep_other_files(source: Path, target: Path) -> None:
    if not source.exists():
        return
    for entry in source.iterdir():
        ours = entry.suffix == ".safetensors" or entry.name in (INDEX_NAME, "config.json")
        if ours:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, target / entry.name, symlinks=True)
        else:
            shutil.copy2(entry, target / entry.name, follow_symlinks=False)


def _swap(new: Path, path: Path) -> None:
    """Rename ``new`` to ``path``; what was there is moved aside first and restored if that fails."""
    if not path.exists():
        new.rename(path)
        return
    previous = path.with_name(f".{path.name}.previous-{os.getpid()}")
    path.rename(previous)
    try:
        new.rename(path)
    except OSError:
        previous.rename(path)
        raise
    shutil.rmtree(previous, ignore_errors=True)
