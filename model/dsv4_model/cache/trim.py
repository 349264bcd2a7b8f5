"""A page without what lies beyond a position: entries and keys of other timelines that share it."""

from __future__ import annotations

import torch
from torch import Tensor

from dsv4_model.cache.formats import KEYS_PER_PAGE, KeyFormat, Storage
from dsv4_model.cache.layout import CacheLayout

__all__ = ["trimmed"]


def trimmed(page: Tensor, layout: CacheLayout, count: int) -> Tensor:
    """A copy on the CPU of uint8 ``[page_bytes]`` that holds only what its first ``count`` tokens made.

    The rest is zero, as in a page that no one has gone further in.
    """
    copy = page.detach().to("cpu", copy=True)
    row = layout.rows.nbytes
    for layer in layout.layers:
        if not layer.ratio:
            continue
        kept = count // layer.ratio
        copy[layer.entries + kept * row : layer.entries + layer.entries_per_page * row] = 0
        if layer.keys >= 0:
            _clear_keys(copy[layer.keys : layer.keys + layout.key.nbytes], layout.key, kept)
    return copy


def _clear_keys(block: Tensor, key: KeyFormat, kept: int) -> None:
    """Zero the keys from ``kept`` on in a block as `KeyFormat` describes it."""
    match key.storage:
        case Storage.FP4:
            half = KEYS_PER_PAGE // 2
            mask = torch.zeros(half, 1, dtype=torch.uint8)
            mask[:kept] |= 0x0F
            mask[: max(0, kept - half)] |= 0xF0
            codes = half * key.size
            block[:codes].view(-1, half, 4).bitwise_and_(mask)
            block[codes:].view(-1, KEYS_PER_PAGE)[:, kept:] = 0
        case Storage.FP8:
            codes = KEYS_PER_PAGE * key.size
            block[:codes].view(-1, KEYS_PER_PAGE)[:, kept:] = 0
            block[codes:].view(KEYS_PER_PAGE, -1)[kept:] = 0
        case _:
            block.view(key.size, KEYS_PER_PAGE, -1)[:, kept:] = 0
