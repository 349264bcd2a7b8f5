"""Bytes of the weights that lie in a checkpoint folder, from the headers of its files alone.

Without PyTorch, so that looking at a model is quick; `dsv4_model.checkpoint_reader` checks far more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dsv4_model.weight_accounting import Component

__all__ = ["StoredSizeError", "StoredWeights", "read_stored_weights"]

_INDEX: Final = "model.safetensors.index.json"
_MAX_HEADER: Final = 100_000_000  # safetensors' own limit


class StoredSizeError(Exception):
    """A weight file or index that can't be understood; the text names the file and a remedy."""


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """Payload bytes by component, and the files that are named but absent or cut off."""

    sizes: Mapping[Component, int]
    files: int
    missing: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every file is there in full."""
        return not self.missing

    @property
    def total(self) -> int:
        """All payload bytes."""
        return sum(self.sizes.values())


def read_stored_weights(folder: Path) -> StoredWeights | None:
    """Sum what ``folder`` holds; None where it has no weights at all. Raises `StoredSizeError`."""
    names = _files(folder)
    sizes = dict.fromkeys(Component, 0)
    missing = []
    for name in names:
        whole = _add(folder / name, sizes)
        if not whole:
            missing.append(name)
    if len(missing) == len(names) and not any(sizes.values()):
        return None
    return StoredWeights(sizes, len(names), tuple(missing))


def _files(folder: Path) -> list[str]:
    index = folder / _INDEX
    try:
        if not index.is_file():
            return sorted(path.name for path in folder.glob("*.safetensors") if path.is_file())
        shards = json.loads(index.read_bytes())["weight_map"].values()
        names = sorted(set(shards))
    except OSError as error:
        raise StoredSizeError(f"{error.filename or folder}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoredSizeError(f"{index}: has no map of tensors to files; download it again") from error
    if not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise StoredSizeError(f"{index}: names files outside of its folder; download it again")
    return names


def _add(file: Path, sizes: dict[Component, int]) -> bool:
    """Add the tensors of one file; False where it is absent or shorter than its header promises."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            size = stream.seek(0, 2)
            if size < 8 + min(length, _MAX_HEADER):
                return False
            stream.seek(8)
            raw = stream.read(length) if length <= _MAX_HEADER else b""
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoredSizeError(f"{file}: {error.strerror or error}") from error
    try:
        header: dict[str, Any] = json.loads(raw)
        tensors = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
        ends = [0]
        for name, entry in tensors:
            begin, end = entry["data_offsets"]
            if not (type(begin) is type(end) is int and 0 <= begin <= end):
                raise ValueError(name)
            sizes[_component(name, entry["dtype"])] += end - begin
            ends.append(end)
        return bool(8 + length + max(ends) <= size)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoredSizeError(f"{file}: is not a safetensors file; download it again") from error


def _component(name: str, dtype: str) -> Component:
    if name.startswith("mtp."):
        return Component.MTP
    if ".ffn.experts." in name:
        return Component.ROUTED_EXPERTS
    match dtype:
        case "I64" | "I32":
            return Component.INT64
        case "F32" if not name.endswith(".scale"):
            return Component.FP32
        case "BF16" | "F16":
            return Component.BF16
        case _:
            return Component.DENSE_FP8
