"""Block sizes: what a program of each kernel takes on at once."""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["COMPILED", "INTERPRETED", "Tuning", "block_of", "natural_tuning"]


@dataclass(frozen=True, slots=True)
class Tuning:
    """Sizes of blocks.

    Attributes:
        programs: about how many programs keep the device busy; long work is split until there are as many.
        tokens: tokens of a block where each token is a row of its own (mixing, rows).
        attention_rows: query rows (token times head) of an attention tile.
        attention_keys: cache rows that it takes at a time.
        index_tokens: queries that share one decoding of index keys.
        index_pages: pages that one program of the index scan reads.
        matmul_columns: weight rows of a tile.
        matmul_depth: elements of the inner dimension that it takes at a time.
        warps: of the large kernels.
    """

    programs: int
    tokens: int
    attention_rows: int
    attention_keys: int
    index_tokens: int
    index_pages: int
    matmul_columns: int
    matmul_depth: int
    warps: int


COMPILED = Tuning(
    programs=264,
    tokens=1,
    attention_rows=32,
    attention_keys=16,
    index_tokens=2,
    index_pages=8,
    matmul_columns=64,
    matmul_depth=64,
    warps=8,
)
"""A guess for recent data-centre GPUs, not yet measured on any."""

INTERPRETED = Tuning(
    programs=3,
    tokens=32,
    attention_rows=64,
    attention_keys=64,
    index_tokens=16,
    index_pages=4,
    matmul_columns=128,
    matmul_depth=128,
    warps=4,
)
"""Few, large programs: the interpreter pays for each operation of each program, whatever its size."""


def natural_tuning() -> Tuning:
    """What suits the way in which Triton runs in this process."""
    return INTERPRETED if os.environ.get("TRITON_INTERPRET") == "1" else COMPILED


def block_of(size: int, least: int = 1) -> int:
    """The smallest power of two that is at least ``size`` and ``least``."""
    return max(1 << max(size - 1, 0).bit_length(), least)
