"""Where everything lies: byte offsets of each layer in a sequence's rings and in a page."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from dsv4_model.cache.formats import (
    PAGE_TOKENS,
    CacheFormat,
    KeyFormat,
    RowFormat,
    key_format,
    row_format,
)
from dsv4_model.config import CSA_RATIO, AttentionKind, ConfigError, ModelConfig

__all__ = ["CacheLayout", "LayerLayout", "Ring"]

_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Ring:
    """``slots`` rows of ``row_bytes`` at byte ``offset``; position p lives in slot ``p % slots``."""

    offset: int
    slots: int
    row_bytes: int

    @property
    def nbytes(self) -> int:
        """Bytes of the ring."""
        return self.slots * self.row_bytes


@dataclass(frozen=True, slots=True)
class LayerLayout:
    """One layer: its rings (in the sequence's ring buffer) and its two blocks in every page.

    ``values`` and ``gates`` hold the fp32 compressor inputs of the unfinished block, for CSA also of the
    block before. Offsets of absent parts are -1.
    """

    ratio: int
    kind: AttentionKind
    window: Ring
    values: Ring | None
    gates: Ring | None
    key_values: Ring | None
    key_gates: Ring | None
    entries: int
    entries_per_page: int
    keys: int

    @property
    def rings(self) -> tuple[Ring, ...]:
        """All rings of the layer."""
        every = (self.window, self.values, self.gates, self.key_values, self.key_gates)
        return tuple(ring for ring in every if ring is not None)


@dataclass(frozen=True)
class CacheLayout:
    """The cache of one model, or of a run of its layers, in one format. The last ``drafts`` layers (0 or 1)
    are the MTP block's."""

    config: ModelConfig
    format: CacheFormat
    rows: RowFormat
    key: KeyFormat
    layers: tuple[LayerLayout, ...]
    drafts: int
    ring_bytes: int
    page_bytes: int

    @classmethod
    def of(cls, config: ModelConfig, choice: CacheFormat, *, with_mtp: bool = False) -> CacheLayout:
        """Lay out the cache of ``config``. Raises `ConfigError` where the format can't hold its shape."""
        ratios = [*config.compress_ratios[: config.num_hidden_layers], *([0] if with_mtp else [])]
        return cls._built(config, choice, ratios, int(with_mtp))

    @classmethod
    def _built(cls, config: ModelConfig, choice: CacheFormat, ratios: list[int], drafts: int) -> CacheLayout:
        rows, key = row_format(choice, config), key_format(choice, config)
        builder = _Builder(config, rows, key)
        layers = tuple(builder.layer(number, ratio) for number, ratio in enumerate(ratios))
        return cls(config, choice, rows, key, layers, drafts, builder.ring_bytes, builder.page_bytes)

    def part(self, run: range) -> CacheLayout:
        """The layout of neighbouring layers alone. Its rings and pages are the stretches of this layout's
        that belong to them, so that parts laid end to end are the whole."""
        ratios = [layer.ratio for layer in self.layers[run.start : run.stop]]
        drafts = max(0, run.stop - len(self.main_layers))
        return self._built(self.config, self.format, ratios, drafts)

    @cached_property
    def main_layers(self) -> tuple[LayerLayout, ...]:
        """The layers without the MTP block."""
        return self.layers[: len(self.layers) - self.drafts]

    def page_bytes_by_kind(self) -> dict[str, int]:
        """Bytes of one page: csa_entries, hca_entries, index_keys."""
        found = dict.fromkeys(("csa_entries", "hca_entries", "index_keys"), 0)
        for layer in self.layers:
            if layer.ratio:
                kind = "csa_entries" if layer.kind is AttentionKind.CSA else "hca_entries"
                found[kind] += layer.entries_per_page * self.rows.nbytes
            if layer.kind is AttentionKind.CSA:
                found["index_keys"] += self.key.nbytes
        return found

    def ring_bytes_by_kind(self) -> dict[str, int]:
        """Bytes of one sequence's rings: window (main layers), draft (the MTP block's), partial."""
        main = self.main_layers
        window = sum(layer.window.nbytes for layer in main)
        draft = sum(layer.window.nbytes for layer in self.layers[len(main) :])
        return {"window": window, "partial": self.ring_bytes - window - draft, "draft": draft}


class _Builder:
    def __init__(self, config: ModelConfig, rows: RowFormat, key: KeyFormat) -> None:
        self.config, self.rows, self.key = config, rows, key
        self.ring_bytes = 0
        self.page_bytes = 0

    def layer(self, number: int, ratio: int) -> LayerLayout:
        if ratio and PAGE_TOKENS % ratio:
            raise ConfigError(
                f"compress_ratios[{number}]", ratio, f"the paged cache needs a divisor of {PAGE_TOKENS}"
            )
        csa = ratio == CSA_RATIO
        kind = AttentionKind.WINDOW if ratio == 0 else AttentionKind.CSA if csa else AttentionKind.HCA
        window = self._ring(self.config.sliding_window, self.rows.nbytes)
        slots, width = (2 * ratio, 2) if csa else (ratio, 1)
        size, key_size = 4 * width * self.config.head_dim, 4 * width * self.config.index_head_dim
        values = self._ring(slots, size) if ratio else None
        gates = self._ring(slots, size) if ratio else None
        key_values = self._ring(slots, key_size) if csa else None
        key_gates = self._ring(slots, key_size) if csa else None
        count = PAGE_TOKENS // ratio if ratio else 0
        entries = self._block(count * self.rows.nbytes) if ratio else -1
        keys = self._block(self.key.nbytes) if csa else -1
        return LayerLayout(ratio, kind, window, values, gates, key_values, key_gates, entries, count, keys)

    def _ring(self, slots: int, row_bytes: int) -> Ring:
        ring = Ring(self.ring_bytes, slots, row_bytes)
        self.ring_bytes += -(-ring.nbytes // _ALIGNMENT) * _ALIGNMENT
        return ring

    def _block(self, size: int) -> int:
        offset = self.page_bytes
        self.page_bytes += size
        return offset
