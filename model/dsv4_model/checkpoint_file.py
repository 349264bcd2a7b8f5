"""One safetensors file: its header, checked against its size, and its bytes, mapped read-only.

Headers are parsed and checked before anything is mapped: a truncated download is reported as what it is and
not as a fault of a lower library.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "AGAIN",
    "CheckpointError",
    "FileIdentity",
    "TensorInfo",
    "changed",
    "map_file",
    "read_header",
    "tensor_in",
    "verify_unchanged",
]

AGAIN = "Download or copy the file again."
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16,
    "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
}  # fmt: skip
_TORCH = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I32": torch.int32,
    "I64": torch.int64,
}
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
    """Where one stored tensor lies: ``nbytes`` bytes from byte ``offset`` of ``file``, row-major.

    ``dtype`` is the safetensors name, e.g. ``F8_E4M3``.
    """

    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What tells that a file is still the one that was opened."""

    size: int
    modified_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        """From a stat of the file."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)


def read_header(file: Path) -> tuple[dict[str, TensorInfo], FileIdentity]:
    """The tensors of a file by stored name, and what the file was when they were read.

    Raises:
        CheckpointError: missing, unreadable or truncated file, malformed header.
    """
    try:
        with file.open("rb") as stream:
            identity = FileIdentity.of(os.fstat(stream.fileno()))
            size = identity.size
            prefix = stream.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or (8 + length > size and length <= _MAX_HEADER):
                raise _truncated(file, size, None if len(prefix) < 8 else 8 + length)
            if length > _MAX_HEADER:
                raise CheckpointError("is not a safetensors file.", AGAIN, file=file)
            raw = stream.read(length)
    except FileNotFoundError:
        raise CheckpointError(
            "the shard is missing.", "Download it into the checkpoint folder.", file=file
        ) from None
    except OSError as error:
        raise CheckpointError(f"can't be read ({error.strerror}).", AGAIN, file=file) from error
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"has a corrupt header ({error}).", AGAIN, file=file) from error
    if not isinstance(header, dict):
        raise CheckpointError("has a corrupt header (not an object).", AGAIN, file=file)
    header.pop("__metadata__", None)
    start = 8 + length
    tensors = {name: _entry(file, name, entry, start, size) for name, entry in header.items()}
    end = max((info.offset + info.nbytes for info in tensors.values()), default=start)
    if end != size:
        raise CheckpointError(f"has {size - end:,} bytes more than its header describes.", AGAIN, file=file)
    return tensors, identity


def map_file(file: Path, identity: FileIdentity) -> Tensor:
    """All bytes of ``file`` as a uint8 tensor that must not be written to: memory is taken as pages are read,
    and the system may take it back at any time.

    Raises:
        CheckpointError: it can't be opened, or is no longer what ``identity`` says.
    """
    try:
        with file.open("rb") as stream:
            if FileIdentity.of(os.fstat(stream.fileno())) != identity:
                raise changed(file)
            # A shared read-only mapping counts against no limit of the process, a private one would.
            mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise CheckpointError(f"can't be read ({error}).", AGAIN, file=file) from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        return torch.frombuffer(mapping, dtype=torch.uint8)


def tensor_in(data: Tensor, info: TensorInfo, name: str) -> Tensor:
    """The tensor that ``info`` describes as a view of ``data``, all bytes of its file."""
    dtype = _TORCH.get(info.dtype)
    if dtype is None:
        raise CheckpointError(
            f"is stored as {info.dtype}, which can't be read.", AGAIN, file=info.file, tensor=name
        )
    part = data[info.offset : info.offset + info.nbytes]
    if info.offset % dtype.itemsize:
        part = part.clone()  # only a foreign writer leaves a tensor unaligned
    return part.view(dtype).view(info.shape)


def changed(file: Path) -> CheckpointError:
    """The error for a file that is no longer the one whose header was read."""
    return CheckpointError(
        "has changed since the model was opened.",
        "Load the model again once the file is complete: what was read from it so far may mix two versions.",
        file=file,
    )


def verify_unchanged(files: Mapping[Path, FileIdentity]) -> None:
    """Compare each file with what it was when it was opened, by its size, time and inode alone.

    Raises:
        CheckpointError: a file is gone or another one.
    """
    for file, identity in files.items():
        try:
            now = FileIdentity.of(file.stat())
        except OSError as error:
            raise CheckpointError(
                f"can't be found any more ({error.strerror}).",
                "Put the file back, then load the model again.",
                file=file,
            ) from error
        if now != identity:
            raise changed(file)


def _entry(file: Path, name: str, entry: Any, start: int, size: int) -> TensorInfo:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]} if all(
            type(length) is int and length >= 0 for length in shape
        ):
            pass
        case _:
            raise CheckpointError("has a corrupt header entry.", AGAIN, file=file, tensor=name)
    if start + end > size:
        raise _truncated(file, size, start + end, name)
    # A dtype that this engine doesn't know is refused where it's used; a draft stage may hold one.
    if not 0 <= begin <= end or (dtype in _BITS and 8 * (end - begin) != _BITS[dtype] * math.prod(shape)):
        raise CheckpointError(
            f"its {end - begin} bytes don't hold {dtype} {shape}.", AGAIN, file=file, tensor=name
        )
    return TensorInfo(dtype, tuple(shape), file, start + begin, end - begin)


def _truncated(file: Path, size: int, needed: int | None, tensor: str | None = None) -> CheckpointError:
    wanted = "" if needed is None else f" of at least {needed:,}"
    return CheckpointError(f"is truncated: it has {size:,}{wanted} bytes.", AGAIN, file=file, tensor=tensor)
