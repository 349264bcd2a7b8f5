"""Pooling of token blocks: a softmax over the tokens of a block, for every channel on its own."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from dsv4_model.cache.layout import Ring
from dsv4_model.kernels.gpu.plan import Closers, Plan
from dsv4_model.kernels.gpu.tuning import block_of

__all__ = ["pool"]

_SLOTS = 8


@triton.jit
def _pool(
    values,
    gates,
    out,
    tokens,
    positions,
    pieces,
    starts,
    firsts,
    rings,
    size,
    channels,
    values_ring,
    gates_ring,
    slots,
    RATIO: tl.constexpr,
    OVERLAP: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """One block that a token closes: its tokens lie among this pass's rows or, older, in the rings."""
    token = tl.load(tokens + tl.program_id(0))
    position = tl.load(positions + token)
    if (position + 1) % RATIO != 0:
        return
    piece = tl.load(pieces + token)
    start, first, ring = tl.load(starts + piece), tl.load(firsts + piece), tl.load(rings + piece)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    low = position + 1 - RATIO - OVERLAP * RATIO
    largest = tl.full((BLOCK_C,), -1e30, tl.float32)
    weight = tl.zeros((BLOCK_C,), tl.float32)
    total = tl.zeros((BLOCK_C,), tl.float32)
    for block in range(0, RATIO + OVERLAP * RATIO, BLOCK_S):
        slot = block + tl.arange(0, BLOCK_S)
        p = low + slot
        # The block before gives its first half of the channels, the block's own tokens the second.
        channel = c[None, :] + tl.where(slot >= RATIO, size, 0)[:, None]
        seen = (p >= 0) & (slot < RATIO + OVERLAP * RATIO)
        mask = seen[:, None] & (c < size)[None, :]
        new = (p >= first)[:, None]
        row = (start + p - first)[:, None] * channels + channel
        old = ring + ((p % slots)[:, None] * channels + channel) * 4
        value = tl.where(new, values.to(tl.int64) + row * 4, old + values_ring)
        gate = tl.where(new, gates.to(tl.int64) + row * 4, old + gates_ring)
        value = tl.load(value.to(tl.pointer_type(tl.float32)), mask=mask, other=0.0)
        gate = tl.load(gate.to(tl.pointer_type(tl.float32)), mask=mask, other=float("-inf"))
        higher = tl.maximum(largest, tl.max(gate, 0))
        rescale = tl.exp(largest - higher)
        part = tl.exp(gate - higher[None, :])
        weight = weight * rescale + tl.sum(part, 0)
        total = total * rescale + tl.sum(part * value, 0)
        largest = higher
    tl.store(out + tl.program_id(0).to(tl.int64) * size + c, total / weight, mask=c < size)


def pool(
    values: Tensor, gates: Tensor, size: int, closers: Closers, plan: Plan, rings: tuple[Ring, Ring]
) -> Tensor:
    """Blocks ``[closers, size]`` (undefined where none closes) from fp32 rows ``[tokens, channels]``.

    ``gates`` include the position bias. ``rings`` hold values and gates of the tokens before this pass.
    """
    channels = values.shape[1]
    out = values.new_empty(len(closers.tokens), size)
    width = min(block_of(size), 128)
    _pool[(len(out), triton.cdiv(size, width))](
        values,
        gates,
        out,
        closers.tokens,
        plan.positions,
        plan.pieces,
        plan.starts,
        plan.firsts,
        plan.rings,
        size,
        channels,
        rings[0].offset,
        rings[1].offset,
        rings[0].slots,
        RATIO=closers.ratio,
        OVERLAP=int(channels > size),
        BLOCK_S=_SLOTS,
        BLOCK_C=width,
    )
    return out
