"""Reading and writing one timeline's cache with PyTorch, as plain fp32 rows, entries and keys."""

from __future__ import annotations

import torch
from torch import Tensor

from dsv4_model.cache.formats import KEYS_PER_PAGE
from dsv4_model.cache.kv_cache import KVCache
from dsv4_model.cache.layout import LayerLayout, Ring

__all__ = ["PieceCache"]


class PieceCache:
    """A cache during one pass. Rings are written to a copy, which `commit` puts in place.

    Pages are written directly: what lies beyond the cache's position is nobody's yet.
    """

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        self._rings = cache.rings.clone()
        self._rows, self._key = cache.layout.rows, cache.layout.key

    def commit(self) -> None:
        """The pass has succeeded."""
        self._cache.rings.copy_(self._rings)

    def window(self, layer: LayerLayout, position: int) -> Tensor:
        """The rows that queries from ``position`` on can still see: ``[<= window - 1, D]``, oldest first."""
        first = max(0, position - layer.window.slots + 1)
        return self._rows.decode(self._slots(layer.window, first, position))

    def floats(self, ring: Ring, start: int, stop: int) -> Tensor:
        """fp32 rows of positions ``start .. stop - 1``."""
        return self._slots(ring, start, stop).contiguous().view(torch.float32)

    def write_floats(self, ring: Ring, position: int, rows: Tensor) -> None:
        """fp32 rows of positions from ``position`` on."""
        self.write_ring(ring, position, rows.float().contiguous().view(torch.uint8))

    def write_ring(self, ring: Ring, position: int, rows: Tensor) -> None:
        """Encoded rows of positions from ``position`` on; the last of them stay."""
        kept = min(len(rows), ring.slots)
        first = position + len(rows) - kept
        slots = torch.arange(first, first + kept, device=rows.device) % ring.slots
        self._view(ring)[slots] = rows[len(rows) - kept :]

    def entries(self, layer: LayerLayout, count: int) -> Tensor:
        """The first ``count`` compressed entries, ``[count, D]``."""
        size = layer.entries_per_page * self._rows.nbytes
        blocks = self._blocks(layer.entries, size, -(-count // layer.entries_per_page))
        return self._rows.decode(blocks.view(-1, self._rows.nbytes)[:count])

    def chosen_entries(self, layer: LayerLayout, numbers: Tensor) -> Tensor:
        """Compressed entries by number, ``[n, D]``."""
        size, row = layer.entries_per_page, self._rows.nbytes
        rows = []
        for number in numbers.tolist():
            start = layer.entries + number % size * row
            rows.append(self._cache.pages[number // size].data[start : start + row])
        return self._rows.decode(torch.stack(rows))

    def write_entries(self, layer: LayerLayout, first: int, entries: Tensor) -> None:
        """Store entries ``first, first + 1, ...`` from fp32 ``[n, D]``."""
        size, row = layer.entries_per_page, self._rows.nbytes
        for number, encoded in enumerate(self._rows.encode(entries), first):
            start = layer.entries + number % size * row
            self._cache.pages[number // size].data[start : start + row] = encoded

    def keys(self, layer: LayerLayout, count: int) -> Tensor:
        """The first ``count`` index keys, ``[count, index size]``."""
        blocks = self._blocks(layer.keys, self._key.nbytes, -(-count // KEYS_PER_PAGE))
        return self._key.decode(blocks).flatten(0, 1)[:count]

    def write_keys(self, layer: LayerLayout, first: int, keys: Tensor) -> None:
        """Store keys ``first, first + 1, ...`` from fp32 ``[n, index size]``."""
        done = 0
        while done < len(keys):
            page, slot = divmod(first + done, KEYS_PER_PAGE)
            n = min(KEYS_PER_PAGE - slot, len(keys) - done)
            target = self._cache.pages[page].data[layer.keys : layer.keys + self._key.nbytes]
            block = self._key.decode(target.unsqueeze(0))
            block[0, slot : slot + n] = keys[done : done + n]
            target.copy_(self._key.encode(block)[0])
            done += n

    def _blocks(self, offset: int, size: int, count: int) -> Tensor:
        return torch.stack([page.data[offset : offset + size] for page in self._cache.pages[:count]])

    def _view(self, ring: Ring) -> Tensor:
        return self._rings[ring.offset : ring.offset + ring.nbytes].view(ring.slots, ring.row_bytes)

    def _slots(self, ring: Ring, start: int, stop: int) -> Tensor:
        return self._view(ring)[torch.arange(start, stop, device=self._rings.device) % ring.slots]
