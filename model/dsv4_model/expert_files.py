"""Routed experts in the files of a checkpoint: where each lies, and reading one into a buffer."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from dsv4_model.checkpoint_file import AGAIN, CheckpointError, FileIdentity, TensorInfo, changed, tensor_in
from dsv4_model.checkpoint_reader import Checkpoint, scale_name_of
from dsv4_model.config import ModelConfig
from dsv4_model.matrix import Matrix
from dsv4_model.weights import ExpertWeights

__all__ = ["ExpertFiles"]

_ALIGNMENT = 64  # a cache line, and what vector loads of the native back end like best
_MATRICES = ("w1", "w2", "w3")
_QUANTIZED = ("F8_E4M3", "I8")


@dataclass(frozen=True, slots=True)
class _Part:
    """One tensor of an expert: where it lies in its file, and from which byte of the buffer it goes."""

    name: str
    info: TensorInfo
    start: int


class ExpertFiles:
    """The routed experts of all layers, by layer and expert number; an MTP block counts as one layer more.

    ``buffer_bytes`` holds any one expert. Reading is explicit, never by mapping, so that the caller's buffers
    are all the memory there is. Safe to use from several threads.

    Raises:
        CheckpointError: a file that is gone or changed, an expert that is missing, misshapen or stored in a
            way that can't be used as it is.
    """

    def __init__(self, checkpoint: Checkpoint, config: ModelConfig) -> None:
        self._checkpoint = checkpoint
        self._config = config
        mtp = config.num_nextn_predict_layers > 0 and not config.has_dspark
        self.prefixes = tuple(f"layers.{n}.ffn.experts" for n in range(config.num_hidden_layers)) + (
            ("mtp.0.ffn.experts",) if mtp and "mtp.0.ffn.experts.0.w1.weight" in checkpoint else ()
        )
        self.experts = config.n_routed_experts
        sizes = [self._check(layer, e) for layer in range(len(self.prefixes)) for e in range(self.experts)]
        self.buffer_bytes = max(sizes)
        self._files: dict[Path, FileIO] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the files. Nothing can be read afterwards until it's opened again by need."""
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files.clear()

    def read(self, layer: int, expert: int, buffer: memoryview) -> int:
        """Fill ``buffer`` (at least ``buffer_bytes``, bytes) with one expert as stored; gives the bytes read.

        Raises:
            CheckpointError: the file ends early, is gone, can't be read, or is no longer what was opened.
        """
        parts = sorted(self._parts(layer, expert), key=lambda p: (p.info.file, p.info.offset))
        total = 0
        for run in _runs(parts):
            file = run[0].info.file
            descriptor = self._open(file).fileno()
            targets = [buffer[p.start : p.start + p.info.nbytes] for p in run]
            total += _read(descriptor, targets, run[0])
            # Only now is it known that no writer came in between.
            if FileIdentity.of(os.fstat(descriptor)) != self._checkpoint.files[file]:
                raise changed(file)
        return total

    def weights(self, layer: int, expert: int, buffer: Tensor) -> ExpertWeights:
        """Views of a filled ``buffer`` (uint8, on any device)."""
        tensors = {p.name: tensor_in(buffer, _moved(p), p.name) for p in self._parts(layer, expert)}
        prefix = self._prefix(layer, expert)
        w1, w2, w3 = (
            Matrix.of(tensors[name], tensors.get(scale_name_of(name)))
            for name in (f"{prefix}.{matrix}.weight" for matrix in _MATRICES)
        )
        return ExpertWeights(w1, w2, w3)

    def names(self, prefix: str) -> Iterator[str]:
        """The names of all tensors of a layer's experts."""
        layer = self.prefixes.index(prefix)
        for expert in range(self.experts):
            yield from (part.name for part in self._parts(layer, expert))

    def _prefix(self, layer: int, expert: int) -> str:
        return f"{self.prefixes[layer]}.{expert}"

    def _parts(self, layer: int, expert: int) -> list[_Part]:
        prefix, tensors = self._prefix(layer, expert), self._checkpoint.tensors
        parts = []
        start = 0
        for matrix in _MATRICES:
            name = f"{prefix}.{matrix}.weight"
            names = (name, scale_name_of(name)) if tensors[name].dtype in _QUANTIZED else (name,)
            for part in names:
                info = tensors[part]
                parts.append(_Part(part, info, start))
                start += -(-info.nbytes // _ALIGNMENT) * _ALIGNMENT
        return parts

    def _check(self, layer: int, expert: int) -> int:
        """Check one expert by the headers; gives the size of its buffer in bytes."""
        c, prefix, checkpoint = self._config, self._prefix(layer, expert), self._checkpoint
        d, inner = c.hidden_size, c.moe_intermediate_size
        for matrix, shape in zip(_MATRICES, ((inner, d), (d, inner), (inner, d)), strict=True):
            name = f"{prefix}.{matrix}.weight"
            checkpoint.check(name, torch.float32, shape)
            info = checkpoint.info(name)
            scale = checkpoint.info(scale_name_of(name)) if info.dtype in _QUANTIZED else None
            odd = scale is not None and scale.dtype != "F8_E8M0"
            if odd or info.dtype == "F16":
                raise CheckpointError(
                    f"is stored as {info.dtype}{' with fp32 scales' if odd else ''} and can't be streamed.",
                    "Convert it to BF16 or to FP4 with ue8m0 scales, or load it without a memory budget.",
                    file=info.file,
                    tensor=name,
                )
        last = self._parts(layer, expert)[-1]
        return -(-(last.start + last.info.nbytes) // _ALIGNMENT) * _ALIGNMENT

    def _open(self, file: Path) -> FileIO:
        with self._lock:
            found = self._files.get(file)
            if found is None:
                try:
                    found = FileIO(file, "r")
                except OSError as error:
                    raise CheckpointError(
                        f"can't be opened any more ({error.strerror}).",
                        "Put the file back, then load the model again.",
                        file=file,
                    ) from error
                self._files[file] = found
            return found


def _moved(part: _Part) -> TensorInfo:
    info = part.info
    return TensorInfo(info.dtype, info.shape, info.file, part.start, info.nbytes)


def _runs(parts: list[_Part]) -> Iterator[list[_Part]]:
    """Parts that follow one another in a file are read in one call."""
    run = parts[:1]
    for previous, part in pairwise(parts):
        before = previous.info
        if part.info.file == before.file and part.info.offset == before.offset + before.nbytes:
            run.append(part)
        else:
            yield run
            run = [part]
    yield run


def _read(descriptor: int, targets: list[memoryview], first: _Part) -> int:
    offset = first.info.offset
    while targets:
        try:
            count = os.preadv(descriptor, targets, offset)
        except OSError as error:
            raise CheckpointError(
                f"can't be read ({error.strerror}).", AGAIN, file=first.info.file, tensor=first.name
            ) from error
        if count == 0:
            raise CheckpointError(
                f"ends at byte {offset:,}, in the middle of an expert.",
                AGAIN,
                file=first.info.file,
                tensor=first.name,
            )
        offset += count
        while targets and count >= len(targets[0]):
            count -= len(targets.pop(0))
        if count:
            targets[0] = targets[0][count:]
    return offset - first.info.offset
