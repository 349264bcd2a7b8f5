"""Where the caches of one engine lie: on one device, or a run of layers on each of several."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch

from dsv4_model.cache.kv_cache import KVCache
from dsv4_model.cache.layout import CacheLayout
from dsv4_model.cache.pages import PagePool
from dsv4_model.cache.split_cache import SplitCache

__all__ = ["CachePart", "CacheSpace"]


@dataclass(frozen=True, slots=True)
class CachePart:
    """The caches of the layers of one device: their layout, and where their pages come from."""

    layout: CacheLayout
    pool: PagePool

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.pool.device


@dataclass(frozen=True, slots=True)
class CacheSpace:
    """``layout`` is that of all layers; ``parts`` follow the order of the layers."""

    layout: CacheLayout
    parts: tuple[CachePart, ...]

    @classmethod
    def of(cls, layout: CacheLayout, devices: Items[torch.device], runs: Items[range]) -> CacheSpace:
        """Space on ``devices`` for a run of layers each; together they are all layers."""
        layouts = [layout] if len(runs) == 1 else [layout.part(run) for run in runs]
        parts = (CachePart(own, PagePool(own.page_bytes, d)) for own, d in zip(layouts, devices, strict=True))
        return cls(layout, tuple(parts))

    def new_cache(self) -> KVCache:
        """An empty cache. Raises `CacheMemoryError`."""
        caches = tuple(KVCache(part.layout, part.pool) for part in self.parts)
        return caches[0] if len(caches) == 1 else SplitCache(self.layout, caches)
