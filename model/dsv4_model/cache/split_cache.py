"""The KV state of one timeline whose layers lie on several devices."""

from __future__ import annotations

from torch import Tensor

from dsv4_model.cache.kv_cache import Boundary, KVCache
from dsv4_model.cache.layout import CacheLayout

__all__ = ["SplitCache"]


class SplitCache(KVCache):
    """A `KVCache` made of ``parts``: one a run of layers, each with pages and rings on its own device.

    The parts hold the same tokens. Passes read and write the parts, never the whole, and advance each when
    its layers are through; so the whole has come as far as its last part, which also has the MTP block.
    """

    def __init__(self, layout: CacheLayout, parts: tuple[KVCache, ...]) -> None:
        self.layout = layout
        self._parts = parts

    @property
    def parts(self) -> tuple[KVCache, ...]:
        """See `KVCache.parts`."""
        return self._parts

    @property
    def position(self) -> int:  # type: ignore[override]
        """Tokens that all parts hold."""
        return self.parts[-1].position

    @property
    def draft_position(self) -> int:
        """Tokens that the MTP block has seen."""
        return self.parts[-1].draft_position

    @draft_position.setter
    def draft_position(self, position: int) -> None:
        self.parts[-1].draft_position = position

    def prepare(self, count: int) -> None:
        """See `KVCache.prepare`. Where a later part has no memory, earlier ones have pages standing ready."""
        for part in self.parts:
            part.prepare(count)

    def advance(self, count: int) -> None:
        """See `KVCache.advance`."""
        for part in self.parts:
            part.advance(count)

    def retreat(self, count: int) -> None:
        """See `KVCache.retreat`."""
        for part in self.parts:
            part.retreat(count)

    def fork(self) -> SplitCache:
        """See `KVCache.fork`."""
        return SplitCache(self.layout, tuple(part.fork() for part in self.parts))

    def boundary(self, logits: Tensor) -> Boundary:
        """See `KVCache.boundary`."""
        held = tuple(part.held() for part in self.parts)
        return Boundary(self.position, self.draft_position, held, logits)

    def restore(self, boundary: Boundary | None) -> None:
        """See `KVCache.restore`."""
        if boundary is None:
            for part in self.parts:
                part.restore(None)
            return
        for part, held in zip(self.parts, boundary.parts, strict=True):
            part.take(held, boundary.position, boundary.draft_position)

    def usage(self) -> dict[str, int]:
        """See `KVCache.usage`: of all devices together."""
        every = [part.usage() for part in self.parts]
        return {kind: sum(usage[kind] for usage in every) for kind in every[0]}
