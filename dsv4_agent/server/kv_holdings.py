"""What KV states hold together: bytes by kind, shared pages and shared boundaries counted once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dsv4_model.cache.kv_cache import Boundary
    from dsv4_model.cache.layout import CacheLayout
    from dsv4_model.engine import Sequence as Timeline

__all__ = ["BOUNDARIES", "Holdings", "holdings", "shared_bytes"]

BOUNDARIES: Final = "boundaries"
"""The kind of what is kept of points to return to; the others are those of `Sequence.usage`."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """Bytes by kind: window, csa_entries, hca_entries, index_keys, partial, draft, boundaries."""

    by_kind: Mapping[str, int]

    @property
    def nbytes(self) -> int:
        """All of it."""
        return sum(self.by_kind.values())


def holdings(timelines: Iterable[Timeline]) -> Holdings:
    """What timelines and their boundaries hold together."""
    kinds: Counter[str] = Counter()
    seen: set[int] = set()
    rings: Counter[int] = Counter()
    pages: Counter[int] = Counter()
    layouts: dict[int, CacheLayout] = {}
    boundaries: dict[int, Boundary] = {}
    for timeline in timelines:
        for part in timeline.cache.parts:
            key, before = id(part.layout), len(seen)
            layouts[key] = part.layout
            seen.update(map(id, part.pages))
            rings[key] += 1
            pages[key] += len(seen) - before
        boundaries.update((id(boundary), boundary) for boundary in timeline.boundaries)
    for key, layout in layouts.items():
        for kind, size in layout.ring_bytes_by_kind().items():
            kinds[kind] += size * rings[key]
        for kind, size in layout.page_bytes_by_kind().items():
            kinds[kind] += size * pages[key]
    for boundary in boundaries.values():
        kinds[BOUNDARIES] += boundary.nbytes + boundary.logits.nbytes
        # Its full pages are the timeline's own.
        last = {id(page): page.data.nbytes for held in boundary.parts for page in held.pages[-1:]}
        kinds[BOUNDARIES] += sum(size for page, size in last.items() if page not in seen)
        seen |= last.keys()
    return Holdings(dict(kinds))


def shared_bytes(timelines: Sequence[Timeline]) -> list[int]:
    """For each timeline the bytes of its pages that others of them hold as well."""
    holders = Counter(
        id(page) for timeline in timelines for part in timeline.cache.parts for page in part.pages
    )
    return [
        sum(page.data.nbytes for part in timeline.cache.parts for page in part.pages if holders[id(page)] > 1)
        for timeline in timelines
    ]
