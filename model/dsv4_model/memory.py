"""Large blocks of memory, in huge pages where the system has them: many small ones cost page-table walks."""

from __future__ import annotations

import mmap

import torch
from torch import Tensor

__all__ = ["Block", "zeroed"]

_HUGE = 2 << 20


def zeroed(nbytes: int, device: torch.device) -> Tensor:
    """uint8 ``[nbytes]`` of zeros. Raises `MemoryError`, or on other devices what torch raises."""
    if device.type != "cpu" or nbytes < _HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(nbytes, dtype=torch.uint8, device=device)
    try:
        # Private, so that the kernel counts it as this process's own memory and may use huge pages.
        memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"{nbytes:,} bytes can't be had ({error.strerror})") from error
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)


class Block:
    """A run of bytes handed out in pieces, for tensors that live as long as their owner."""

    _ALIGNMENT = 64

    def __init__(self, nbytes: int) -> None:
        self._memory = zeroed(nbytes, torch.device("cpu"))
        self._used = 0

    @classmethod
    def room(cls, nbytes: int) -> int:
        """What a piece of ``nbytes`` takes."""
        return -(-nbytes // cls._ALIGNMENT) * cls._ALIGNMENT

    def copy(self, tensor: Tensor) -> Tensor:
        """The tensor's values in this block."""
        raw = tensor.contiguous().view(-1).view(torch.uint8)
        piece = self._memory[self._used : self._used + raw.numel()]
        piece.copy_(raw)
        self._used += self.room(raw.numel())
        return piece.view(tensor.dtype).view(tensor.shape)
