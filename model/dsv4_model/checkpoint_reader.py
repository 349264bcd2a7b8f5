"""Reading the official checkpoint format: lazily, shard by shard, with every fault named.

Headers are parsed and checked here, against the size of the file, before anything is mapped: a truncated
download is reported as what it is and not as a fault of a lower library.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from dsv4_model.quantization import FP4_GROUP, FP8_BLOCK, dequantize_fp4, dequantize_fp8_blocks

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
_AGAIN = "Download or copy the file again."
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16,
    "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
}  # fmt: skip
_FLOATS = ("BF16", "F16", "F32", "F8_E4M3", "I8")  # I8 is packed FP4
_INTEGERS = ("I64", "I32")
_MAX_HEADER = 100_000_000  # safetensors' own limit


class CheckpointError(Exception):
    """A checkpoint that can't be read or written; says which file, which tensor and what would mend it."""

    def __init__(
        self, problem: str, remedy: str, *, file: Path | str | None = None, tensor: str | None = None
    ) -> None:
        where = ": ".join(str(part) for part in (file, tensor) if part is not None)
        super().__init__(f"{where}: {problem} {remedy}" if where else f"{problem} {remedy}")
        self.problem = problem
        self.remedy = remedy
        self.file = None if file is None else Path(file)
        self.tensor = tensor


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one stored tensor lies. ``dtype`` is the safetensors name, e.g. ``F8_E4M3``."""

    dtype: str
    shape: tuple[int, ...]
    file: Path


class Checkpoint:
    """An opened checkpoint folder. Only headers have been read; tensors are mapped when asked for."""

    def __init__(self, path: Path, tensors: Mapping[str, TensorInfo]) -> None:
        self.path = path
        self.tensors = tensors
        self._shards: dict[Path, Any] = {}

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
        """The tensor as it is stored (mapped, not copied): FP8 stays FP8, FP4 stays packed int8."""
        info = self.info(name)
        try:
            if info.file not in self._shards:
                self._shards[info.file] = safe_open(str(info.file), framework="pt")
            tensor: Tensor = self._shards[info.file].get_tensor(name)
        except Exception as error:
            raise CheckpointError(f"can't be read ({error}).", _AGAIN, file=info.file, tensor=name) from error
        return tensor

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
    """Open a checkpoint folder: a sharded ``model.safetensors.index.json`` or one ``model.safetensors``.

    Raises:
        CheckpointError: no checkpoint there, a missing or truncated shard, a malformed index or header, an
            index that promises tensors which its shards don't hold, tensors named by another library.
    """
    path = Path(path)
    if not path.is_dir():
        raise _not_a_folder(path)
    if (path / INDEX_NAME).is_file():
        tensors = _read_index(path)
    elif (path / SINGLE_NAME).is_file():
        tensors = _read_header(path / SINGLE_NAME)
    else:
        raise CheckpointError(
            f"holds neither {INDEX_NAME} nor {SINGLE_NAME}.",
            "Give the folder of a DeepSeek-V4 checkpoint in safetensors format.",
            file=path,
        )
    refuse_foreign_names(path, tensors)
    return Checkpoint(path, tensors)


def refuse_foreign_names(path: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """Raise `CheckpointError` where tensors carry another library's names, and say how to convert them."""
    if "embed.weight" in tensors:
        return
    first = min(tensors, default=None)
    if any(name.startswith(("model.", "lm_head.")) for name in tensors):
        raise CheckpointError(
            "the tensors carry transformers names, not DeepSeek's own.",
            "Use the original files of the model's repository (embed.weight, layers.0.attn.wq_a.weight): "
            "what save_pretrained of transformers writes can't be read back here, with either save format.",
            file=path,
            tensor=first,
        )
    raise CheckpointError(
        "the tensors don't carry DeepSeek-V4 names (there is no embed.weight).",
        "Use the original DeepSeek-V4 files; other families and re-packed formats aren't supported.",
        file=path,
        tensor=first,
    )


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


def _read_index(folder: Path) -> dict[str, TensorInfo]:
    file = folder / INDEX_NAME
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"can't be read ({error.strerror}).", _AGAIN, file=file) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"is not valid JSON ({error}).", _AGAIN, file=file) from error
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(shard, str) for shard in weights.values()):
        raise CheckpointError("has no weight_map of tensor names to files.", _AGAIN, file=file)
    headers: dict[str, dict[str, TensorInfo]] = {}
    for shard in sorted(set(weights.values())):
        if not shard or Path(shard).name != shard:
            raise CheckpointError(f"names {shard!r}, which is not a file of this folder.", _AGAIN, file=file)
        headers[shard] = _read_header(folder / shard)
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
    return tensors


def _read_header(file: Path) -> dict[str, TensorInfo]:
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            prefix = stream.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or (8 + length > size and length <= _MAX_HEADER):
                raise _truncated(file, size, None if len(prefix) < 8 else 8 + length)
            if length > _MAX_HEADER:
                raise CheckpointError("is not a safetensors file.", _AGAIN, file=file)
            raw = stream.read(length)
    except FileNotFoundError:
        raise CheckpointError(
            "the shard is missing.", "Download it into the checkpoint folder.", file=file
        ) from None
    except OSError as error:
        raise CheckpointError(f"can't be read ({error.strerror}).", _AGAIN, file=file) from error
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"has a corrupt header ({error}).", _AGAIN, file=file) from error
    if not isinstance(header, dict):
        raise CheckpointError("has a corrupt header (not an object).", _AGAIN, file=file)
    header.pop("__metadata__", None)
    return {name: _entry(file, name, entry, size - 8 - length) for name, entry in header.items()}


def _entry(file: Path, name: str, entry: Any, payload: int) -> TensorInfo:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]} if all(
            type(size) is int and size >= 0 for size in shape
        ):
            pass
        case _:
            raise CheckpointError("has a corrupt header entry.", _AGAIN, file=file, tensor=name)
    if end > payload:
        raise _truncated(file, file.stat().st_size, file.stat().st_size - payload + end, name)
    if dtype in _BITS and (begin < 0 or 8 * (end - begin) != _BITS[dtype] * math.prod(shape)):
        raise CheckpointError(
            f"its {end - begin} bytes don't hold {dtype} {shape}.", _AGAIN, file=file, tensor=name
        )
    return TensorInfo(dtype, tuple(shape), file)


def _truncated(file: Path, size: int, needed: int | None, tensor: str | None = None) -> CheckpointError:
    wanted = "" if needed is None else f" of at least {needed:,}"
    return CheckpointError(f"is truncated: it has {size:,}{wanted} bytes.", _AGAIN, file=file, tensor=tensor)
