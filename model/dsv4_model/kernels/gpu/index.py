"""The lightning indexer over paged keys: encoding of keys, scores, and the choice of the best entries."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dsv4_model.cache.formats import KEYS_PER_PAGE, KeyFormat, Storage
from dsv4_model.kernels.gpu.numbers import (
    bf16_bits,
    e2m1_code,
    e2m1_value,
    e4m3_code,
    e4m3_value,
    fp4_exponent,
    fp8_exponent,
    hadamard,
    narrow,
    ordered_key,
    power_of_two,
)
from dsv4_model.kernels.gpu.plan import Closers, Plan
from dsv4_model.kernels.gpu.rows import Angles, turned
from dsv4_model.kernels.gpu.tuning import Tuning, block_of

__all__ = ["choose", "coarse_queries", "encode_keys"]

_SCORES_AT_ONCE = 1 << 25
_UNSEEN = tl.constexpr(-(1 << 63))
_FP4_GROUP = 32


@triton.jit
def _coarse(
    x,
    weight,
    cos,
    sin,
    target,
    tokens,
    positions,
    pieces,
    pages,
    rows,
    N,
    per_angle,
    norm_eps,
    factor,
    offset,
    capacity,
    KEYS: tl.constexpr,
    HALF: tl.constexpr,
    RATIO: tl.constexpr,
    ROTARY: tl.constexpr,
    HADAMARD: tl.constexpr,
    FP4: tl.constexpr,
    STORAGE: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_P: tl.constexpr,
    STEPS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Index queries to ``target`` (fp32 rows), or index keys into the key blocks of pages.

    HALF: with FP4 storage keys i and 16 + i share bytes, so the halves of a page are written by separate
    launches, 0 and 1; -1 writes all.
    """
    SIZE: tl.constexpr = 2 * BLOCK_P
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    n = tl.arange(0, SIZE)
    present = r < rows
    page = r.to(tl.int64)
    key = r
    if KEYS:
        token = tl.load(tokens + r, mask=present, other=0)
        position = tl.load(positions + token, mask=present, other=0)
        number = (position + 1) // RATIO - 1
        key = (number % 32).to(tl.int32)
        present = present & ((position + 1) % RATIO == 0)
        if HALF >= 0:
            present = present & (key // 16 == HALF)
        piece = tl.load(pieces + token, mask=present, other=0)
        page = tl.load(pages + piece * capacity + number // 32, mask=present, other=0) + offset
    even, odd = turned(
        x, weight, cos, sin, r, present, r // per_angle, N, norm_eps, KEYS, KEYS, ROTARY, BLOCK_P
    )
    v = tl.reshape(tl.join(even, odd), (BLOCK_R, SIZE))
    if HADAMARD:
        v = hadamard(v, BLOCK_R, SIZE, STEPS) * factor
    if FP4:
        groups = tl.reshape(v, (BLOCK_R, SIZE // GROUP, GROUP))
        exponents = fp4_exponent(tl.max(tl.abs(groups), 2))
        scaled = groups * power_of_two(254 - exponents)[:, :, None]
        codes = e2m1_code(tl.minimum(tl.maximum(scaled, -6.0), 6.0))
        v = tl.reshape(e2m1_value(codes) * power_of_two(exponents)[:, :, None], (BLOCK_R, SIZE))
    mask = present[:, None] & (n < N)[None, :]
    if not KEYS:
        tl.store(target + r[:, None].to(tl.int64) * N + n[None, :], v, mask=mask)
    elif STORAGE == 0:
        place = page[:, None].to(tl.pointer_type(tl.float32)) + n[None, :] * 32 + key[:, None]
        tl.store(place, v, mask=mask)
    elif STORAGE == 1:
        place = page[:, None].to(tl.pointer_type(tl.uint16)) + n[None, :] * 32 + key[:, None]
        tl.store(place, bf16_bits(v), mask=mask)
    elif STORAGE == 2:
        exponent = fp8_exponent(tl.max(tl.abs(v), 1))
        v = tl.minimum(tl.maximum(v * power_of_two(254 - exponent)[:, None], -448.0), 448.0)
        place = page[:, None].to(tl.pointer_type(tl.uint8)) + n[None, :] * 32 + key[:, None]
        tl.store(place, e4m3_code(v), mask=mask)
        place = (page + 32 * N).to(tl.pointer_type(tl.float32)) + key
        tl.store(place, power_of_two(exponent), mask=present)
    else:
        # Rounded values, re-encoded, give their own codes again; these are the reference's very bytes.
        groups = tl.reshape(v, (BLOCK_R, SIZE // GROUP, GROUP))
        exponents = fp4_exponent(tl.max(tl.abs(groups), 2))
        scaled = groups * power_of_two(254 - exponents)[:, :, None]
        code = tl.reshape(e2m1_code(tl.minimum(tl.maximum(scaled, -6.0), 6.0)), (BLOCK_R, SIZE))
        byte = (n // 4 * 64 + n % 4)[None, :] + 4 * (key % 16)[:, None]
        place = page[:, None].to(tl.pointer_type(tl.uint8)) + byte
        there = tl.load(place, mask=mask, other=0).to(tl.int32)
        both = (there & 15) | (code << 4) if HALF == 1 else (there & 240) | code
        tl.store(place, both.to(tl.uint8), mask=mask)
        g = tl.arange(0, SIZE // GROUP)
        place = (page + 16 * N)[:, None].to(tl.pointer_type(tl.uint8)) + g[None, :] * 32 + key[:, None]
        tl.store(place, exponents.to(tl.uint8), mask=present[:, None] & (g * GROUP < N)[None, :])


@triton.jit
def _keys(page, N, n, inside, STORAGE: tl.constexpr):
    """The 32 keys of a page, channels first: fp32 ``[channels, 32]``."""
    k = tl.arange(0, 32)
    mask = inside[:, None] & (k < 32)[None, :]
    if STORAGE == 0:
        place = page.to(tl.pointer_type(tl.float32)) + n[:, None] * 32 + k[None, :]
        keys = tl.load(place, mask=mask, other=0.0)
    elif STORAGE == 1:
        place = page.to(tl.pointer_type(tl.bfloat16)) + n[:, None] * 32 + k[None, :]
        keys = tl.load(place, mask=mask, other=0.0).to(tl.float32)
    elif STORAGE == 2:
        place = page.to(tl.pointer_type(tl.uint8)) + n[:, None] * 32 + k[None, :]
        scale = tl.load((page + 32 * N).to(tl.pointer_type(tl.float32)) + k)
        keys = e4m3_value(tl.load(place, mask=mask, other=0)) * scale[None, :]
    else:
        bytes = tl.multiple_of(page.to(tl.pointer_type(tl.uint8)), 8)
        place = bytes + (n // 4 * 64 + n % 4)[:, None] + 4 * (k % 16)[None, :]
        codes = tl.load(place, mask=mask, other=0).to(tl.int32) >> (4 * (k // 16))[None, :]
        exponents = tl.load(bytes + 16 * N + (n // 32)[:, None] * 32 + k[None, :], mask=mask, other=1)
        keys = e2m1_value(codes & 15) * power_of_two(exponents)
    return keys


@triton.jit
def _score(
    q,
    weights,
    out,
    firsts,
    counts,
    positions,
    pieces,
    pages,
    tile,
    base,
    heads,
    N,
    offset,
    capacity,
    ratio,
    STORAGE: tl.constexpr,
    EXACT: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PAGES: tl.constexpr,
):
    """Scores of a tile of queries against the keys of a run of pages, as sortable numbers."""
    tile += tl.program_id(0)
    first, count = tl.load(firsts + tile), tl.load(counts + tile)
    piece = tl.load(pieces + first)
    j = tl.arange(0, TOKENS)
    k = tl.arange(0, 32)
    n = tl.arange(0, BLOCK_N)
    row = tl.arange(0, TOKENS * BLOCK_H)
    token, head = row // BLOCK_H, row % BLOCK_H
    present = (token < count) & (head < heads)
    inside = n < N
    vectors = ((first + token) * heads + head) * N
    query = tl.load(q + vectors[:, None] + n[None, :], mask=present[:, None] & inside[None, :], other=0.0)
    weight = tl.load(weights + (first + token) * heads + head, mask=present, other=0.0)
    closed = (tl.load(positions + first + j, mask=j < count, other=-1) + 1) // ratio
    most = tl.max(closed, 0)
    for page in range(tl.program_id(1) * PAGES, tl.minimum((tl.program_id(1) + 1) * PAGES, capacity)):
        number = page * 32 + k
        result = tl.full((TOKENS, 32), _UNSEEN, tl.int64)
        if page * 32 < most:
            keys = _keys(tl.load(pages + piece * capacity + page) + offset, N, n, inside, STORAGE)
            if EXACT:
                products = tl.dot(query, keys, input_precision="tf32x3")
            else:
                products = tl.dot(narrow(query), narrow(keys))
            products = tl.maximum(products, 0.0) * weight[:, None]
            score = tl.sum(tl.reshape(products, (TOKENS, BLOCK_H, 32)), 1)
            visible = number[None, :] < closed[:, None]
            result = tl.where(visible, ordered_key(score, number[None, :]), _UNSEEN)
        place = out + (first - base + j)[:, None] * (capacity * 32) + number[None, :]
        tl.store(place, result, mask=(j < count)[:, None])


def _sizes(angles: Angles, key: KeyFormat, tuning: Tuning, *, fp4: bool) -> dict[str, int | bool]:
    size = block_of(key.size, 2)
    return {
        "ROTARY": 2 * angles.cos.shape[1],
        "FP4": fp4,
        "STORAGE": int(key.storage),
        "BLOCK_R": tuning.tokens,
        "BLOCK_P": size // 2,
        "STEPS": size.bit_length() - 1,
        "GROUP": min(_FP4_GROUP, size),
    }


def coarse_queries(
    q: Tensor, angles: Angles, key: KeyFormat, tuning: Tuning, *, rotates: bool, fp4: bool
) -> Tensor:
    """Queries ``[N, heads, size]`` rotated, Hadamard-transformed (``rotates``) and rounded (``fp4``)."""
    count, heads, size = q.shape
    out = torch.empty_like(q)
    _coarse[(triton.cdiv(count * heads, tuning.tokens),)](
        q,
        q,
        angles.cos,
        angles.sin,
        out,
        q,
        q,
        q,
        q,
        count * heads,
        size,
        heads,
        0.0,
        size**-0.5,
        0,
        1,
        KEYS=False,
        HALF=-1,
        RATIO=1,
        HADAMARD=rotates,
        **_sizes(angles, key, tuning, fp4=fp4),
    )
    return out


def encode_keys(
    pooled: Tensor,
    weight: Tensor,
    closers: Closers,
    angles: Angles,
    plan: Plan,
    key: KeyFormat,
    eps: float,
    tuning: Tuning,
    *,
    offset: int,
    rotates: bool,
    fp4: bool,
) -> None:
    """Finish the keys ``pooled [closers, size]`` and store them in the pages' key blocks at ``offset``."""
    for half in (0, 1) if key.storage is Storage.FP4 else (-1,):
        _coarse[(triton.cdiv(len(pooled), tuning.tokens),)](
            pooled,
            weight,
            angles.cos,
            angles.sin,
            pooled,
            closers.tokens,
            plan.positions,
            plan.pieces,
            plan.pages,
            len(pooled),
            key.size,
            1,
            eps,
            key.size**-0.5,
            offset,
            plan.capacity,
            KEYS=True,
            HALF=half,
            RATIO=closers.ratio,
            HADAMARD=rotates,
            **_sizes(angles, key, tuning, fp4=fp4),
        )


def choose(
    q: Tensor,
    weights: Tensor,
    plan: Plan,
    key: KeyFormat,
    count: int,
    tuning: Tuning,
    *,
    offset: int,
    ratio: int,
    exact: bool,
) -> Tensor:
    """The best ``count`` visible entries of each query: int64 ``[N, count]``, -1 where there are fewer.

    Higher score first, then lower number. ``q [N, heads, size]`` are coarse queries, ``weights [N, heads]``.
    """
    tokens, heads, size = q.shape
    columns = plan.capacity * KEYS_PER_PAGE
    count = min(count, columns)
    chosen = torch.empty(tokens, count, dtype=torch.int64, device=q.device)
    # A table of all queries of a long prefill against all keys would be too large.
    at_once = max(1, _SCORES_AT_ONCE // columns)
    tiles = next(t for t in plan.tiles if t.size == (tuning.index_tokens if at_once >= tokens else 1))
    for base in range(0, tokens, at_once):
        rows = min(at_once, tokens - base)
        scores = torch.empty(rows, columns, dtype=torch.int64, device=q.device)
        many = len(tiles.firsts) if at_once >= tokens else rows
        _score[(many, triton.cdiv(plan.capacity, tuning.index_pages))](
            q,
            weights,
            scores,
            tiles.firsts,
            tiles.counts,
            plan.positions,
            plan.pieces,
            plan.pages,
            base,
            base,
            heads,
            size,
            offset,
            plan.capacity,
            ratio,
            STORAGE=int(key.storage),
            EXACT=exact,
            TOKENS=tiles.size,
            BLOCK_H=block_of(heads, 16 // min(tiles.size, 16)),
            BLOCK_N=block_of(size, 16),
            PAGES=tuning.index_pages,
        )
        best = scores.topk(count, dim=-1).values
        numbers = 0x7FFFFFFF - (best & 0x7FFFFFFF)
        chosen[base : base + rows] = torch.where(best == -(1 << 63), -1, numbers)
    return chosen
