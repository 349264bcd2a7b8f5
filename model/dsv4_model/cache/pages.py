"""Pages: the compressed entries and index keys of 128 tokens, for all layers, in one piece of memory.

A page's entries are append-only. ``filled`` is how many of its tokens have been written by whoever came
furthest; a timeline that stands exactly there may append in place, and any other must copy the page first
(`KVCache` does). So timelines share pages without counting who holds them.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from dsv4_model.memory import zeroed

__all__ = ["CacheMemoryError", "Page", "PagePool"]

_SLAB_BYTES = 8 << 20
_LEAST_BYTES = 1 << 10  # a run of layers that only see their window has pages of no bytes


class CacheMemoryError(MemoryError):
    """There is no memory for the KV cache. Nothing was lost. Carries a remedy."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.remedy = "Close other sessions, choose a smaller cache format, or shorten the context."
        super().__init__(f"There is no memory for {wanted:,} more bytes of KV cache. {self.remedy}")


class _Slab:
    """A run of equally large pages; keeps the numbers of the free ones."""

    def __init__(self, count: int, page_bytes: int, device: torch.device) -> None:
        self.memory = zeroed(count * page_bytes, device).view(count, page_bytes)
        self.free = list(range(count - 1, -1, -1))


class Page:
    """One page; returns its memory to the pool when the last timeline that holds it is gone."""

    __slots__ = ("_number", "_slab", "data", "filled")

    def __init__(self, slab: _Slab, number: int) -> None:
        self._slab = slab
        self._number = number
        self.data: Tensor = slab.memory[number]
        self.filled = 0

    def __del__(self) -> None:
        self._slab.free.append(self._number)


class PagePool:
    """Hands out zeroed pages of ``page_bytes`` on ``device``, allocated many at a time."""

    def __init__(self, page_bytes: int, device: torch.device | str = "cpu") -> None:
        self.page_bytes = page_bytes
        self.device = torch.device(device)
        self._slabs: list[_Slab] = []
        self._lock = threading.Lock()  # returning a page takes none: a list's append is atomic
        self._per_slab = max(1, _SLAB_BYTES // max(page_bytes, _LEAST_BYTES))

    def take(self) -> Page:
        """A page. Raises `CacheMemoryError`."""
        with self._lock:
            slab = next((slab for slab in reversed(self._slabs) if slab.free), None)
            if slab is None:
                slab = self._grow(self._per_slab)
            page = Page(slab, slab.free.pop())
        # What another conversation left behind must not reach a snapshot of this one.
        page.data.zero_()
        return page

    def reserve(self, count: int) -> None:
        """Make sure that ``count`` pages can be taken. Raises `CacheMemoryError`; then nothing is kept."""
        if count <= 0:
            return
        with self._lock:
            missing = count - sum(len(slab.free) for slab in self._slabs)
            if missing > 0:
                self._grow(-(-missing // self._per_slab) * self._per_slab)

    def _grow(self, count: int) -> _Slab:
        wanted = count * self.page_bytes
        try:
            slab = _Slab(count, self.page_bytes, self.device)
        except (RuntimeError, MemoryError) as error:  # torch raises RuntimeError, on a GPU its subclass
            raise CacheMemoryError(wanted) from error
        self._slabs.append(slab)
        return slab
