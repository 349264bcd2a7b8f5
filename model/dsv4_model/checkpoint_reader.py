"""Reading a checkpoint folder: lazily, shard by shard, with every fault named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dsv4_model.checkpoint_file import (
    AGAIN,
    CheckpointError,
    FileIdentity,
    TensorInfo,
    map_file,
    read_header,
    tensor_in,
    verify_unchanged,
)
from dsv4_model.checkpoint_names import official_names
from dsv4_model.quantization import FP4_GROUP, FP8_BLOCK, dequantize_fp4, dequantize_fp8_blocks

__all__ = [
    "INDEX_NAME",
    "SINGLE_NAME",
    "Checkpoint",
    "CheckpointError",
    "TensorInfo",
    "open_checkpoint",
    "scale_name_of",
]

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
_FLOATS = ("BF16", "F16", "F32", "F8_E4M3", "I8")  # I8 is packed FP4
_INTEGERS = ("I64", "I32")


class Checkpoint:
    """An opened checkpoint folder. Only headers have been read; tensors are mapped when asked for.

    ``tensors`` is by official name. ``files`` is what each shard was when its header was read.
    """

    def __init__(
        self, path: Path, tensors: Mapping[str, TensorInfo], files: Mapping[Path, FileIdentity]
    ) -> None:
        self.path = path
        self.tensors = tensors
        self.files = files
        self._shards: dict[Path, Tensor] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def info(self, name: str) -> TensorInfo:
        """Stored dtype, shape and file of a tensor. Raises `CheckpointError` if there is no such tensor."""
        try:
            return self.tensors[name]
        except KeyError:
            raise CheckpointError(
                "the tensor is missing.",
                "The checkpoint is incomplete or config.json belongs to another model; download both.",
                file=self.path,
                tensor=name,
            ) from None

    def stored(self, name: str) -> Tensor:
        """The tensor as it is stored (mapped, not copied): FP8 stays FP8, FP4 stays packed int8.

        It must not be written to. Raises `CheckpointError`.
        """
        info = self.info(name)
        if info.file not in self._shards:
            self._shards[info.file] = map_file(info.file, self.files[info.file])
        return tensor_in(self._shards[info.file], info, name)

    def verify_unchanged(self) -> None:
        """Raise `CheckpointError` where a shard is gone or is another file than was opened (a stat each)."""
        verify_unchanged(self.files)

    def tensor(self, name: str, dtype: torch.dtype, shape: tuple[int, ...] | None = None) -> Tensor:
        """The tensor's values in ``dtype``, de-quantised where it is stored as FP8 or packed FP4.

        ``shape`` is the logical shape the model expects; None skips that check.

        Raises:
            CheckpointError: as `check`, or the bytes can't be read.
        """
        self.check(name, dtype, shape)
        match self.tensors[name].dtype:
            case "F8_E4M3":
                return dequantize_fp8_blocks(self.stored(name), self.stored(scale_name_of(name)), dtype)
            case "I8":
                return dequantize_fp4(self.stored(name), self.stored(scale_name_of(name)), dtype)
            case _:
                return self.stored(name).to(dtype)

    def check(self, name: str, dtype: torch.dtype, shape: tuple[int, ...] | None = None) -> None:
        """Whether `tensor` could give ``name`` as ``dtype`` and ``shape``, from the headers alone.

        Raises:
            CheckpointError: missing or misshapen tensor or scale, unusable stored dtype.
        """
        info = self.info(name)
        usable = _FLOATS if dtype.is_floating_point else _INTEGERS
        if info.dtype not in usable:
            raise CheckpointError(
                f"is stored as {info.dtype}; expected one of {', '.join(usable)}.",
                "Convert the checkpoint again from the official files.",
                file=info.file,
                tensor=name,
            )
        packed = info.dtype == "I8" and len(info.shape) == 2
        actual = (info.shape[0], 2 * info.shape[1]) if packed else info.shape
        quantized = info.dtype in ("F8_E4M3", "I8")
        if (shape is not None and actual != tuple(shape)) or (quantized and len(actual) != 2):
            note = f" (stored packed as {list(info.shape)})" if packed else ""
            wanted = list(shape) if shape is not None else "a matrix"
            raise CheckpointError(
                f"has shape {list(actual)}{note} but the model needs {wanted}.",
                "config.json and weights belong to different models; take both from one place.",
                file=info.file,
                tensor=name,
            )
        if quantized:
            self._check_scale(name, info, actual)

    def _check_scale(self, name: str, info: TensorInfo, logical: tuple[int, ...]) -> None:
        scale_name = scale_name_of(name)
        if scale_name not in self.tensors:
            raise CheckpointError(
                f"is stored as {info.dtype} but its scale {scale_name} is missing.",
                "The checkpoint is incomplete; download it again, or convert it again keeping the scales.",
                file=info.file,
                tensor=name,
            )
        scale = self.tensors[scale_name]
        if scale.dtype not in ("F8_E8M0", "F32"):
            raise CheckpointError(
                f"is stored as {scale.dtype}; a scale must be F8_E8M0.",
                "Convert the checkpoint again from the official files.",
                file=scale.file,
                tensor=scale_name,
            )
        rows, columns = (1, FP4_GROUP) if info.dtype == "I8" else (FP8_BLOCK, FP8_BLOCK)
        expected = (-(-logical[0] // rows), -(-logical[1] // columns))
        if scale.shape != expected:
            raise CheckpointError(
                f"has shape {list(scale.shape)} but its weight needs {list(expected)}.",
                "Weight and scale come from different conversions; take both from one place.",
                file=scale.file,
                tensor=scale_name,
            )


def scale_name_of(weight: str) -> str:
    """``layers.0.attn.wkv.weight`` -> ``layers.0.attn.wkv.scale``."""
    return weight.removesuffix(".weight") + ".scale"


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a checkpoint folder: a sharded ``model.safetensors.index.json`` or one ``model.safetensors``, with
    DeepSeek's own tensor names or those of transformers.

    Raises:
        CheckpointError: no checkpoint there, a missing or truncated shard, a malformed index or header, an
            index that promises tensors which its shards don't hold, tensors of another family.
    """
    path = Path(path)
    if not path.is_dir():
        raise _not_a_folder(path)
    if (path / INDEX_NAME).is_file():
        tensors, files = _read_index(path)
    elif (path / SINGLE_NAME).is_file():
        tensors, identity = read_header(path / SINGLE_NAME)
        files = {path / SINGLE_NAME: identity}
    else:
        raise CheckpointError(
            f"holds neither {INDEX_NAME} nor {SINGLE_NAME}.",
            "Give the folder of a DeepSeek-V4 checkpoint in safetensors format.",
            file=path,
        )
    return Checkpoint(path, official_names(path, tensors), files)


def _not_a_folder(path: Path) -> CheckpointError:
    if not path.exists():
        return CheckpointError(
            "does not exist.", "Give the folder of a DeepSeek-V4 checkpoint, or `nano`.", file=path
        )
    remedy = (
        "GGUF files run in llama.cpp: start its server and connect to it."
        if path.suffix == ".gguf"
        else "Give the folder that holds config.json and the .safetensors files."
    )
    return CheckpointError("is a file, not a checkpoint folder.", remedy, file=path)


def _read_index(folder: Path) -> tuple[dict[str, TensorInfo], dict[Path, FileIdentity]]:
    file = folder / INDEX_NAME
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"can't be read ({error.strerror}).", AGAIN, file=file) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"is not valid JSON ({error}).", AGAIN, file=file) from error
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(shard, str) for shard in weights.values()):
        raise CheckpointError("has no weight_map of tensor names to files.", AGAIN, file=file)
    headers: dict[str, dict[str, TensorInfo]] = {}
    files: dict[Path, FileIdentity] = {}
    for shard in sorted(set(weights.values())):
        if not shard or Path(shard).name != shard:
            raise CheckpointError(f"names {shard!r}, which is not a file of this folder.", AGAIN, file=file)
        headers[shard], files[folder / shard] = read_header(folder / shard)
    tensors: dict[str, TensorInfo] = {}
    for name, shard in weights.items():
        if name not in headers[shard]:
            raise CheckpointError(
                f"is promised by {INDEX_NAME} but is not in this shard.",
                "Index and shards come from different downloads; download them again.",
                file=folder / shard,
                tensor=name,
            )
        tensors[name] = headers[shard][name]
    return tensors, files
