"""Attention over the window ring, the pass's own rows and compressed entries, read as they are stored.

A tile is a few query tokens times a block of heads. Its keys are cut into parts, one a program, so that one
decoded token can occupy the whole device; a second kernel joins the parts and adds the sink.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from dsv4_model.cache.formats import RowFormat
from dsv4_model.cache.layout import LayerLayout
from dsv4_model.kernels.gpu.numbers import e4m3_value, narrow, power_of_two
from dsv4_model.kernels.gpu.plan import Plan
from dsv4_model.kernels.gpu.tuning import Tuning, block_of

__all__ = ["attend", "attention_tile"]


@triton.jit
def _place(address, TYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """Pointers ``[n, 1]``. Unless the compiler is told how they are aligned, it loads byte by byte."""
    return tl.multiple_of(address[:, None].to(tl.pointer_type(TYPE)), [ALIGNED, ALIGNED])


@triton.jit
def _rows(
    address,
    present,
    N,
    STORAGE: tl.constexpr,
    ROTARY: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Stored rows at ``address [n]`` as fp32 ``[n, BLOCK_D]``."""
    GROUP: tl.constexpr = 64 if BLOCK_D > 64 else BLOCK_D
    d = tl.arange(0, BLOCK_D)
    mask = present[:, None] & (d < N)[None, :]
    if STORAGE == 0:
        rows = tl.load(_place(address, tl.float32, ALIGNED) + d[None, :], mask=mask, other=0.0)
    elif STORAGE == 1:
        place = _place(address, tl.bfloat16, ALIGNED) + d[None, :]
        rows = tl.load(place, mask=mask, other=0.0).to(tl.float32)
    else:
        start = N - ROTARY
        plain = (d < start)[None, :]
        bytes = _place(address, tl.uint8, ALIGNED)
        codes = tl.load(bytes + d[None, :], mask=mask & plain, other=0)
        g = tl.arange(0, BLOCK_D // GROUP)
        scales = bytes + (start + 2 * ROTARY + g)[None, :]
        scales = tl.load(scales, mask=present[:, None] & (g * GROUP < start)[None, :], other=1)
        scales = tl.broadcast_to(scales[:, :, None], (address.shape[0], BLOCK_D // GROUP, GROUP))
        scales = power_of_two(tl.reshape(scales, (address.shape[0], BLOCK_D)))
        # Rotary channel d lies at byte start + 2 (d - start), which is 2 d - start.
        fine = _place(address - start, tl.bfloat16, 4) + d[None, :]
        fine = tl.load(fine, mask=mask & (d >= start)[None, :], other=0.0).to(tl.float32)
        rows = tl.where(plain, e4m3_value(codes) * scales, fine)
    return rows


@triton.jit
def _step(q, rows, visible, total, largest, weight, EXACT: tl.constexpr):
    """One step of the running softmax over ``rows``."""
    if EXACT:
        scores = tl.dot(q, tl.trans(rows), input_precision="tf32x3")
    else:
        rows = narrow(rows)
        scores = tl.dot(q, tl.trans(rows))
    scores = tl.where(visible, scores, float("-inf"))
    higher = tl.maximum(largest, tl.max(scores, 1))
    rescale = tl.exp(largest - higher)
    part = tl.exp(scores - higher[:, None])
    weight = weight * rescale + tl.sum(part, 1)
    total = total * rescale[:, None]
    if EXACT:
        total = tl.dot(part, rows, total, input_precision="tf32x3")
    else:
        total = tl.dot(narrow(part), rows, total)
    return total, higher, weight


@triton.jit
def _attend(
    q,
    own,
    chosen,
    totals,
    largests,
    weights,
    firsts,
    counts,
    positions,
    pieces,
    piece_starts,
    piece_firsts,
    rings,
    pages,
    tokens,
    heads,
    N,
    scale,
    window,
    ring_offset,
    entries_offset,
    per_page,
    capacity,
    ratio,
    wanted,
    STORAGE: tl.constexpr,
    ROTARY: tl.constexpr,
    ROW_BYTES: tl.constexpr,
    ALIGNED: tl.constexpr,
    ENTRIES: tl.constexpr,
    EXACT: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """A part of the keys of a tile. ENTRIES: 0 there are none, 1 all that are visible, 2 the chosen."""
    tile, split = tl.program_id(0), tl.program_id(2)
    first, count = tl.load(firsts + tile), tl.load(counts + tile)
    piece = tl.load(pieces + first)
    start, before, ring = tl.load(piece_starts + piece), tl.load(piece_firsts + piece), tl.load(rings + piece)
    position = tl.load(positions + first)
    i = tl.arange(0, TOKENS * BLOCK_H)
    j, head = i // BLOCK_H, tl.program_id(1) * BLOCK_H + i % BLOCK_H
    present = (j < count) & (head < heads)
    d = tl.arange(0, BLOCK_D)
    vectors = ((first + j) * heads + head) * N
    query = tl.load(q + vectors[:, None] + d[None, :], mask=present[:, None] & (d < N)[None, :], other=0.0)
    query = query * scale
    if not EXACT:
        query = narrow(query)
    mine = position + j
    total = tl.zeros((TOKENS * BLOCK_H, BLOCK_D), tl.float32)
    largest = tl.full((TOKENS * BLOCK_H,), -1e30, tl.float32)
    weight = tl.zeros((TOKENS * BLOCK_H,), tl.float32)
    e = tl.arange(0, BLOCK_E)

    oldest = tl.maximum(position - window + 1, 0)
    near = tl.cdiv(position + count - oldest, BLOCK_E)
    far = 0
    closed = (position + count) // ratio
    if ENTRIES == 1:
        far = tl.cdiv(closed, BLOCK_E)
    elif ENTRIES == 2:
        far = tl.cdiv(wanted, BLOCK_E)
    share = tl.cdiv(near + far, SPLITS)
    low, high = split * share, (split + 1) * share

    for block in range(low, tl.minimum(high, near)):
        p = oldest + block * BLOCK_E + e
        there = p < position + count
        old = ring + ring_offset + p % window * ROW_BYTES
        new = own.to(tl.int64) + (start + p - before) * ROW_BYTES
        rows = _rows(tl.where(p < before, old, new), there, N, STORAGE, ROTARY, ALIGNED, BLOCK_D)
        age = mine[:, None] - p[None, :]
        visible = (age >= 0) & (age < window) & there[None, :]
        total, largest, weight = _step(query, rows, visible, total, largest, weight, EXACT)
    if ENTRIES > 0:
        for block in range(tl.maximum(low - near, 0), tl.minimum(high - near, far)):
            number = (block * BLOCK_E + e).to(tl.int64)
            if ENTRIES == 2:
                number = tl.load(chosen + first * wanted + number, mask=number < wanted, other=-1)
                there = number >= 0
                visible = there[None, :] & (j < count)[:, None]
            else:
                there = number < closed
                visible = number[None, :] < ((mine + 1) // ratio)[:, None]
            page = tl.load(pages + piece * capacity + number // per_page, mask=there, other=0)
            address = page + entries_offset + number % per_page * ROW_BYTES
            rows = _rows(address, there, N, STORAGE, ROTARY, ALIGNED, BLOCK_D)
            total, largest, weight = _step(query, rows, visible, total, largest, weight, EXACT)
    place = split.to(tl.int64) * tokens * heads + (first + j) * heads + head
    tl.store(totals + place[:, None] * N + d[None, :], total, mask=present[:, None] & (d < N)[None, :])
    tl.store(largests + place, largest, mask=present)
    tl.store(weights + place, weight, mask=present)


@triton.jit
def _join(
    totals,
    largests,
    weights,
    sink,
    out,
    rows,
    heads,
    N,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """One softmax of all parts, with the sink in its denominator."""
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    d = tl.arange(0, BLOCK_D)
    present = r < rows
    mask = present[:, None] & (d < N)[None, :]
    most = tl.load(sink + r % heads, mask=present, other=0.0)
    weight = tl.full((BLOCK_R,), 1.0, tl.float32)
    total = tl.zeros((BLOCK_R, BLOCK_D), tl.float32)
    for split in range(SPLITS):
        place = split * rows + r.to(tl.int64)
        largest = tl.load(largests + place, mask=present, other=0.0)
        higher = tl.maximum(most, largest)
        keep, add = tl.exp(most - higher), tl.exp(largest - higher)
        weight = weight * keep + add * tl.load(weights + place, mask=present, other=0.0)
        part = tl.load(totals + place[:, None] * N + d[None, :], mask=mask, other=0.0)
        total = total * keep[:, None] + part * add[:, None]
        most = higher
    tl.store(out + r[:, None].to(tl.int64) * N + d[None, :], total / weight[:, None], mask=mask)


def attention_tile(heads: int, tuning: Tuning) -> int:
    """Tokens of a tile where tokens need not choose their own entries."""
    return max(1, tuning.attention_rows // block_of(heads))


def attend(
    q: Tensor,
    own: Tensor,
    chosen: Tensor | None,
    sink: Tensor,
    plan: Plan,
    where: LayerLayout,
    rows: RowFormat,
    tuning: Tuning,
    *,
    scale: float,
    exact: bool,
) -> Tensor:
    """Attend from ``q [N, heads, size]`` to what each query sees: fp32 ``[N, heads, size]``.

    ``own`` uint8 ``[N, row bytes]`` are the queries' own rows; older ones are in the rings, which must not
    yet hold the new. ``chosen [N, k]`` are the compressed entries of each query; None: all visible ones.
    """
    tokens, heads, size = q.shape
    per_tile = attention_tile(heads, tuning) if chosen is None else 1
    tiles = next(t for t in plan.tiles if t.size == per_tile)
    # The rows of a tile must be enough for tensor cores, and no more than it has room for.
    room = 16 if exact and size >= 512 else tuning.attention_rows
    block_h = max(min(block_of(heads), room), 16 // per_tile, 1)
    blocks_h = triton.cdiv(heads, block_h)
    programs = len(tiles.firsts) * blocks_h
    splits = max(1, min(tuning.programs // programs, 32))
    totals = q.new_empty(splits, tokens, heads, size)
    largests, weights = q.new_empty(splits, tokens, heads), q.new_empty(splits, tokens, heads)
    block_d = block_of(size, 16)
    _attend[(len(tiles.firsts), blocks_h, splits)](
        q,
        own,
        q if chosen is None else chosen,
        totals,
        largests,
        weights,
        tiles.firsts,
        tiles.counts,
        plan.positions,
        plan.pieces,
        plan.starts,
        plan.firsts,
        plan.rings,
        plan.pages,
        tokens,
        heads,
        size,
        scale,
        where.window.slots,
        where.window.offset,
        where.entries,
        max(where.entries_per_page, 1),
        plan.capacity,
        max(where.ratio, 1),
        1 if chosen is None else chosen.shape[1],
        STORAGE=int(rows.storage),
        ROTARY=rows.rotary,
        ROW_BYTES=rows.nbytes,
        ALIGNED=math.gcd(rows.nbytes, 16),
        ENTRIES=0 if where.ratio == 0 else 1 if chosen is None else 2,
        EXACT=exact,
        TOKENS=per_tile,
        BLOCK_H=block_h,
        BLOCK_E=tuning.attention_keys,
        BLOCK_D=block_d,
        SPLITS=splits,
        num_warps=tuning.warps,
        num_stages=2,
    )
    out = torch.empty_like(q)
    block_r = tuning.tokens
    _join[(triton.cdiv(tokens * heads, block_r),)](
        totals,
        largests,
        weights,
        sink,
        out,
        tokens * heads,
        heads,
        size,
        BLOCK_R=block_r,
        BLOCK_D=block_d,
        SPLITS=splits,
    )
    return out
