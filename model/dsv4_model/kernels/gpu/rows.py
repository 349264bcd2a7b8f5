"""Rows on their way to attention and cache: norm, rotation, Hadamard, rounding, encoding, rings.

A row is held as its even and its odd channels, which is what a rotation pairs. Formats and places are those
of `dsv4_model.cache.formats` and `dsv4_model.cache.layout`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from dsv4_model.cache.formats import RowFormat
from dsv4_model.cache.layout import Ring
from dsv4_model.kernels.gpu.numbers import bf16_bits, e4m3_code, e4m3_value, fp8_exponent, power_of_two
from dsv4_model.kernels.gpu.plan import Closers, Plan
from dsv4_model.kernels.gpu.tuning import Tuning, block_of

__all__ = ["Angles", "encode_entries", "encode_rows", "finish_rows", "rotate_back", "write_ring"]


@dataclass(frozen=True, slots=True)
class Angles:
    """``cos`` and ``sin``, fp32 ``[N, pairs]``, of the positions of N rows."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def of(cls, positions: Tensor, frequencies: Tensor) -> Angles:
        """Of int64 ``positions [N]``."""
        angles = positions.float().unsqueeze(1) * frequencies
        return cls(angles.cos(), angles.sin())


@triton.jit
def turned(
    x,
    weight,
    cos,
    sin,
    r,
    present,
    angle,
    N,
    norm_eps,
    NORM: tl.constexpr,
    WEIGHT: tl.constexpr,
    ROTARY: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Even and odd channels ``[rows, BLOCK_P]`` of rows ``r`` after norm and rotation."""
    p = tl.arange(0, BLOCK_P)
    inside = 2 * p < N
    mask = present[:, None] & inside[None, :]
    place = r[:, None].to(tl.int64) * N + 2 * p[None, :]
    even = tl.load(x + place, mask=mask, other=0.0)
    odd = tl.load(x + place + 1, mask=mask, other=0.0)
    if NORM:
        inverse = tl.rsqrt(tl.sum(even * even + odd * odd, 1) / N + norm_eps)
        even = even * inverse[:, None]
        odd = odd * inverse[:, None]
    if WEIGHT:
        even = even * tl.load(weight + 2 * p, mask=inside, other=0.0)[None, :]
        odd = odd * tl.load(weight + 2 * p + 1, mask=inside, other=0.0)[None, :]
    number = p - (N - ROTARY) // 2
    rotary = mask & (number >= 0)[None, :]
    where = angle[:, None] * (ROTARY // 2) + number[None, :]
    c = tl.load(cos + where, mask=rotary, other=1.0)
    s = tl.load(sin + where, mask=rotary, other=0.0)
    return even * c - odd * s, even * s + odd * c


@triton.jit
def _fp8_groups(even, odd, plain, BLOCK_R: tl.constexpr, BLOCK_P: tl.constexpr, GROUP: tl.constexpr):
    """Exponents ``[rows, groups]`` of the plain channels, and the same spread over the pairs."""
    largest = tl.where(plain[None, :], tl.maximum(tl.abs(even), tl.abs(odd)), 0.0)
    exponents = fp8_exponent(tl.max(tl.reshape(largest, (BLOCK_R, BLOCK_P // GROUP, GROUP)), 2))
    spread = tl.broadcast_to(exponents[:, :, None], (BLOCK_R, BLOCK_P // GROUP, GROUP))
    return exponents, tl.reshape(spread, (BLOCK_R, BLOCK_P))


@triton.jit
def _fp8_codes(x, exponents):
    return e4m3_code(tl.minimum(tl.maximum(x * power_of_two(254 - exponents), -448.0), 448.0))


@triton.jit
def _encode(
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
    offset,
    per_page,
    capacity,
    PAGES: tl.constexpr,
    RATIO: tl.constexpr,
    NORM: tl.constexpr,
    WEIGHT: tl.constexpr,
    ROUND: tl.constexpr,
    STORAGE: tl.constexpr,
    ROTARY: tl.constexpr,
    ROW_BYTES: tl.constexpr,
    GROUPS: tl.constexpr,
    TAIL: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_P: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Norm, rotate, round and encode rows of ``x`` into ``target [rows, ROW_BYTES]`` or into pages."""
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    present = r < rows
    if PAGES:
        # Row r is the pooled block that token tokens[r] closes, if it does.
        token = tl.load(tokens + r, mask=present, other=0)
        position = tl.load(positions + token, mask=present, other=0)
        present = present & ((position + 1) % RATIO == 0)
        number = (position + 1) // RATIO - 1
        piece = tl.load(pieces + token, mask=present, other=0)
        page = tl.load(pages + piece * capacity + number // per_page, mask=present, other=0)
        address = page + offset + number % per_page * ROW_BYTES
    else:
        address = target.to(tl.int64) + r.to(tl.int64) * ROW_BYTES
    even, odd = turned(
        x, weight, cos, sin, r, present, r // per_angle, N, norm_eps, NORM, WEIGHT, ROTARY, BLOCK_P
    )
    p = tl.arange(0, BLOCK_P)
    plain = 2 * p < N - ROTARY
    mask = present[:, None] & (2 * p < N)[None, :]
    if ROUND:
        _, spread = _fp8_groups(even, odd, plain, BLOCK_R, BLOCK_P, GROUP)
        scale = power_of_two(spread)
        even = tl.where(plain[None, :], e4m3_value(_fp8_codes(even, spread)) * scale, even)
        odd = tl.where(plain[None, :], e4m3_value(_fp8_codes(odd, spread)) * scale, odd)
    if STORAGE == 0:
        place = address[:, None].to(tl.pointer_type(tl.float32)) + 2 * p[None, :]
        tl.store(place, even, mask=mask)
        tl.store(place + 1, odd, mask=mask)
    elif STORAGE == 1:
        place = address[:, None].to(tl.pointer_type(tl.uint16)) + 2 * p[None, :]
        tl.store(place, bf16_bits(even), mask=mask)
        tl.store(place + 1, bf16_bits(odd), mask=mask)
    else:
        exponents, spread = _fp8_groups(even, odd, plain, BLOCK_R, BLOCK_P, GROUP)
        place = address[:, None].to(tl.pointer_type(tl.uint8)) + 2 * p[None, :]
        coarse = mask & plain[None, :]
        tl.store(place, _fp8_codes(even, spread), mask=coarse)
        tl.store(place + 1, _fp8_codes(odd, spread), mask=coarse)
        start = N - ROTARY
        fine = mask & (2 * p >= start)[None, :]
        place = (address + start)[:, None].to(tl.pointer_type(tl.uint16)) + (2 * p - start)[None, :]
        tl.store(place, bf16_bits(even), mask=fine)
        tl.store(place + 1, bf16_bits(odd), mask=fine)
        g = tl.arange(0, BLOCK_P // GROUP)
        end = address + start + 2 * ROTARY
        place = end[:, None].to(tl.pointer_type(tl.uint8)) + g[None, :]
        tl.store(place, exponents.to(tl.uint8), mask=present[:, None] & (g < GROUPS)[None, :])
        rest = GROUPS + tl.arange(0, TAIL)
        place = end[:, None].to(tl.pointer_type(tl.uint8)) + rest[None, :]
        padding = (rest < ROW_BYTES - start - 2 * ROTARY)[None, :]
        tl.store(place, tl.zeros((BLOCK_R, TAIL), tl.uint8), mask=present[:, None] & padding)


@triton.jit
def _rotate_back(
    x, y, cos, sin, rows, N, heads, ROTARY: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_P: tl.constexpr
):
    """The conjugate rotation."""
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    present = r < rows
    p = tl.arange(0, BLOCK_P)
    mask = present[:, None] & (2 * p < N)[None, :]
    place = r[:, None].to(tl.int64) * N + 2 * p[None, :]
    even = tl.load(x + place, mask=mask, other=0.0)
    odd = tl.load(x + place + 1, mask=mask, other=0.0)
    number = p - (N - ROTARY) // 2
    rotary = mask & (number >= 0)[None, :]
    where = (r // heads)[:, None] * (ROTARY // 2) + number[None, :]
    c = tl.load(cos + where, mask=rotary, other=1.0)
    s = tl.load(sin + where, mask=rotary, other=0.0)
    tl.store(y + place, even * c + odd * s, mask=mask)
    tl.store(y + place + 1, odd * c - even * s, mask=mask)


@triton.jit
def _write_ring(
    rows,
    rings,
    positions,
    pieces,
    ends,
    tokens,
    words,
    offset,
    slots,
    BLOCK_T: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Copy the rows of the last ``slots`` tokens of each piece to where their positions lie in the ring."""
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    w = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)
    present = t < tokens
    position = tl.load(positions + t, mask=present, other=0)
    piece = tl.load(pieces + t, mask=present, other=0)
    present = present & (position >= tl.load(ends + piece, mask=present, other=0) - slots)
    ring = tl.load(rings + piece, mask=present, other=0) + offset
    mask = present[:, None] & (w < words)[None, :]
    value = tl.load(rows + t[:, None].to(tl.int64) * words + w[None, :], mask=mask, other=0)
    place = ring[:, None].to(tl.pointer_type(tl.int32)) + (position % slots)[:, None] * words + w[None, :]
    tl.store(place, value, mask=mask)


def _blocks(size: int, tuning: Tuning) -> dict[str, int]:
    pairs = block_of(size, 2) // 2
    return {"BLOCK_R": max(tuning.tokens, 1), "BLOCK_P": pairs, "GROUP": min(32, pairs)}


def _format(rows: RowFormat) -> dict[str, int]:
    tail = rows.nbytes - rows.size - rows.rotary - rows.groups
    return {
        "STORAGE": int(rows.storage),
        "ROTARY": rows.rotary,
        "ROW_BYTES": rows.nbytes,
        "GROUPS": rows.groups,
        "TAIL": block_of(max(tail, 1)),
    }


def finish_rows(x: Tensor, angles: Angles, eps: float, tuning: Tuning) -> Tensor:
    """Queries ``[N, heads, size]``: each row normalised without a weight, its last channels rotated; fp32."""
    count, heads, size = x.shape
    y = torch.empty_like(x)
    rows = {"STORAGE": 0, "ROTARY": 2 * angles.cos.shape[1], "ROW_BYTES": 4 * size, "GROUPS": 1, "TAIL": 1}
    _encode[(triton.cdiv(count * heads, max(tuning.tokens, 1)),)](
        x,
        x,
        angles.cos,
        angles.sin,
        y,
        x,
        x,
        x,
        x,
        count * heads,
        size,
        heads,
        eps,
        0,
        1,
        1,
        PAGES=False,
        RATIO=1,
        NORM=True,
        WEIGHT=False,
        ROUND=False,
        **rows,
        **_blocks(size, tuning),
    )
    return y


def encode_rows(
    x: Tensor, weight: Tensor, angles: Angles, rows: RowFormat, eps: float, tuning: Tuning, *, rounds: bool
) -> Tensor:
    """Window rows of ``x [N, size]`` as they are stored: uint8 ``[N, row bytes]``."""
    stored = torch.empty(len(x), rows.nbytes, dtype=torch.uint8, device=x.device)
    _encode[(triton.cdiv(len(x), max(tuning.tokens, 1)),)](
        x,
        weight,
        angles.cos,
        angles.sin,
        stored,
        x,
        x,
        x,
        x,
        len(x),
        rows.size,
        1,
        eps,
        0,
        1,
        1,
        PAGES=False,
        RATIO=1,
        NORM=True,
        WEIGHT=True,
        ROUND=rounds,
        **_format(rows),
        **_blocks(rows.size, tuning),
    )
    return stored


def encode_entries(
    pooled: Tensor,
    weight: Tensor,
    closers: Closers,
    angles: Angles,
    plan: Plan,
    rows: RowFormat,
    eps: float,
    tuning: Tuning,
    *,
    offset: int,
    per_page: int,
    rounds: bool,
) -> None:
    """Finish the blocks ``pooled [closers, size]`` and store them in the pages at byte ``offset``."""
    _encode[(triton.cdiv(len(pooled), max(tuning.tokens, 1)),)](
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
        rows.size,
        1,
        eps,
        offset,
        per_page,
        plan.capacity,
        PAGES=True,
        RATIO=closers.ratio,
        NORM=True,
        WEIGHT=True,
        ROUND=rounds,
        **_format(rows),
        **_blocks(rows.size, tuning),
    )


def rotate_back(x: Tensor, angles: Angles, tuning: Tuning) -> Tensor:
    """Attention results ``[N, heads, size]`` with their last channels rotated back."""
    count, heads, size = x.shape
    y = torch.empty_like(x)
    blocks = _blocks(size, tuning)
    _rotate_back[(triton.cdiv(count * heads, blocks["BLOCK_R"]),)](
        x,
        y,
        angles.cos,
        angles.sin,
        count * heads,
        size,
        heads,
        ROTARY=2 * angles.cos.shape[1],
        BLOCK_R=blocks["BLOCK_R"],
        BLOCK_P=blocks["BLOCK_P"],
    )
    return y


def write_ring(rows: Tensor, ring: Ring, plan: Plan, tuning: Tuning) -> None:
    """Put rows (``[N, row bytes]`` in any dtype) of all tokens into the rings of their caches."""
    words = ring.row_bytes // 4
    width = min(block_of(words), 1024)
    grid = (triton.cdiv(plan.tokens, tuning.tokens), triton.cdiv(words, width))
    _write_ring[grid](
        rows.view(torch.int32),
        plan.rings,
        plan.positions,
        plan.pieces,
        plan.ends,
        plan.tokens,
        words,
        ring.offset,
        ring.slots,
        BLOCK_T=tuning.tokens,
        BLOCK_W=width,
    )
