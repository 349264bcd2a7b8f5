"""The KV state of one timeline: shared pages, its own rings, and how far it has come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsv4_model.cache.formats import PAGE_TOKENS
from dsv4_model.cache.layout import CacheLayout, Ring
from dsv4_model.cache.pages import CacheMemoryError, Page, PagePool
from dsv4_model.cache.ring_copy import copy_of_rings, fresh_rings, put_back
from dsv4_model.cache.saved_slots import SavedRow, put_back_rows, saved_rows

__all__ = ["Boundary", "Held", "KVCache", "SavedSlots"]

SavedSlots = tuple[tuple[SavedRow, ...], ...]
"""Slots of each part of a cache."""


@dataclass(frozen=True, slots=True)
class Held:
    """What one device keeps of a boundary: the pages (shared) and a `copy_of_rings`."""

    pages: tuple[Page, ...]
    rings: Tensor


@dataclass(frozen=True, slots=True)
class Boundary:
    """A point of a timeline to return to exactly; ``parts`` has one entry a device of the engine.

    ``logits`` (fp32 ``[vocab]``) predict the token after ``position``.
    """

    position: int
    draft_position: int
    parts: tuple[Held, ...]
    logits: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes that only this boundary holds."""
        return sum(part.rings.nbytes for part in self.parts)


class KVCache:
    """Pages and rings of one sequence.

    ``rings`` is uint8 ``[layout.ring_bytes]``, written in place by a forward pass; ``table``, itself at
    ``table_address``, holds the addresses of ``pages`` (int64). ``position`` counts the tokens covered; a
    forward pass advances it when it has succeeded, never before. ``draft_position`` is the MTP block's.
    """

    def __init__(self, layout: CacheLayout, pool: PagePool) -> None:
        self.layout = layout
        self.pool = pool
        self.pages: list[Page] = []
        self._use_table(np.zeros(16, dtype=np.int64))
        self.position = 0
        self.draft_position = 0
        try:
            self.rings = torch.zeros(layout.ring_bytes, dtype=torch.uint8, device=pool.device)
        except (RuntimeError, MemoryError) as error:
            raise CacheMemoryError(layout.ring_bytes) from error
        if pool.device.type != "meta":
            fresh_rings(self.rings, layout)

    @property
    def parts(self) -> tuple[KVCache, ...]:
        """The caches that make up this one, one a device: itself, unless it is split."""
        return (self,)

    def ring(self, ring: Ring) -> Tensor:
        """A view: uint8 ``[slots, row_bytes]``."""
        return self.rings[ring.offset : ring.offset + ring.nbytes].view(ring.slots, ring.row_bytes)

    def floats(self, ring: Ring) -> Tensor:
        """A view of a ring of fp32 rows: ``[slots, row_bytes / 4]``."""
        return self.ring(ring).view(torch.float32)

    def prepare(self, count: int) -> None:
        """Make room for ``count`` more tokens: the last page is ours to append to, and new ones stand ready.

        Raises `CacheMemoryError`; nothing has changed then.
        """
        wanted = -(-(self.position + count) // PAGE_TOKENS)
        shared = self._must_copy()
        self.pool.reserve(wanted - len(self.pages) + shared)
        if shared:
            self._copy_last()
        while len(self.pages) < wanted:
            self._add(self.pool.take())

    def advance(self, count: int) -> None:
        """Say that ``count`` tokens have been written."""
        self.position += count
        self._mark()

    def save_slots(self, positions: range, *, drafts: bool = False) -> SavedSlots:
        """What the rings hold where tokens at ``positions`` will be written: of the main layers, or, with
        ``drafts``, of the MTP block."""
        saved = []
        for part in self.parts:
            layout = part.layout
            layers = layout.layers[len(layout.main_layers) :] if drafts else layout.main_layers
            saved.append(tuple(saved_rows(part.rings, layers, positions)))
        return tuple(saved)

    def put_back(self, saved: SavedSlots, first: int) -> None:
        """Undo what was written to saved slots of positions from ``first`` on."""
        for part, rows in zip(self.parts, saved, strict=True):
            put_back_rows(part.rings, rows, first)

    def retreat(self, count: int) -> None:
        """Forget the last ``count`` tokens that `advance` told of and that no other timeline has seen.

        The caller puts back the ring slots that they had overwritten and that can still be seen: all but
        that of the first, which the next token will overwrite.
        """
        self.position -= count
        needed = -(-self.position // PAGE_TOKENS)
        for page in self.pages[needed:]:
            page.filled = 0
        offset = self.position % PAGE_TOKENS
        if offset:
            self.pages[needed - 1].filled = offset

    def fork(self) -> KVCache:
        """An independent timeline at the same point. Copies the rings, shares the pages."""
        twin = object.__new__(KVCache)
        twin.layout, twin.pool = self.layout, self.pool
        twin.position, twin.draft_position = self.position, self.draft_position
        used = -(-self.position // PAGE_TOKENS)
        twin.pages = self.pages[:used]
        twin._use_table(self.table.copy())
        try:
            twin.rings = self.rings.clone()
        except (RuntimeError, MemoryError) as error:
            raise CacheMemoryError(self.layout.ring_bytes) from error
        return twin

    def boundary(self, logits: Tensor) -> Boundary:
        """Remember this point."""
        return Boundary(self.position, self.draft_position, (self.held(),), logits)

    def held(self) -> Held:
        """This point as a boundary keeps it. Raises `CacheMemoryError`."""
        used = -(-self.position // PAGE_TOKENS)
        try:
            rings = copy_of_rings(self.rings, self.layout, self.position)
        except (RuntimeError, MemoryError) as error:
            raise CacheMemoryError(self.layout.ring_bytes) from error
        return Held(tuple(self.pages[:used]), rings)

    def restore(self, boundary: Boundary | None) -> None:
        """Return to a boundary of this layout, or, with None, to before the first token."""
        if boundary is not None:
            (held,) = boundary.parts
            self.take(held, boundary.position, boundary.draft_position)
            return
        self.pages = []
        self.position = self.draft_position = 0
        fresh_rings(self.rings, self.layout)

    def take(self, held: Held, position: int, draft_position: int) -> None:
        """Return to what `held` gave at ``position``."""
        self.position, self.draft_position = position, draft_position
        put_back(self.rings, held.rings, self.layout, position)
        self.pages = []
        for page in held.pages:
            self._add(page)

    def usage(self) -> dict[str, int]:
        """Bytes held, by kind: window, csa_entries, hca_entries, index_keys, partial, draft.

        Shared pages count in full for every timeline that holds them.
        """
        rings = self.layout.ring_bytes_by_kind()
        pages = {kind: size * len(self.pages) for kind, size in self.layout.page_bytes_by_kind().items()}
        return {"window": rings["window"], **pages, "partial": rings["partial"], "draft": rings["draft"]}

    def _use_table(self, table: NDArray[np.int64]) -> None:
        self.table = table
        self.table_address: int = table.ctypes.data  # too slow to ask NumPy for in every pass

    def _add(self, page: Page) -> None:
        if len(self.pages) == len(self.table):
            self._use_table(np.concatenate((self.table, np.zeros_like(self.table))))
        self.table[len(self.pages)] = 0 if page.data.is_meta else page.data.data_ptr()
        self.pages.append(page)

    def _must_copy(self) -> bool:
        """Whether someone has written to our last page beyond our position."""
        offset = self.position % PAGE_TOKENS
        used = self.position // PAGE_TOKENS
        del self.pages[used + (offset > 0) :]
        return offset > 0 and self.pages[used].filled != offset

    def _copy_last(self) -> None:
        copy = self.pool.take()
        old = self.pages.pop()
        copy.data.copy_(old.data)
        copy.filled = self.position % PAGE_TOKENS
        self._add(copy)

    def _mark(self) -> None:
        """Tell the pages how far they are written."""
        full, offset = divmod(self.position, PAGE_TOKENS)
        for page in reversed(self.pages[:full]):
            if page.filled == PAGE_TOKENS:
                break
            page.filled = PAGE_TOKENS
        if offset:
            self.pages[full].filled = offset
