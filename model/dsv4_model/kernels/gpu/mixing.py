"""Hyper-connections: the maps of a site with their Sinkhorn iterations, the way in, and the way out."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dsv4_model.config import ModelConfig
from dsv4_model.kernels.gpu.tuning import Tuning, block_of
from dsv4_model.weights import MixingWeights

__all__ = ["Mixed", "collapse", "mix", "unmix"]


class Mixed(NamedTuple):
    """``x [N, d]``, the site's normalised input; ``post [N, h]``; ``comb [N, h (j), h (k)]``."""

    x: Tensor
    post: Tensor
    comb: Tensor


@triton.jit
def _partial_maps(
    streams,
    fn,
    partial,
    power,
    tokens,
    width,
    MAPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """``fn @ v`` and ``v @ v`` over one part of the flattened streams."""
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    split = tl.program_id(1)
    m = tl.arange(0, BLOCK_M)
    present = t < tokens
    maps = tl.zeros((BLOCK_T, BLOCK_M), tl.float32)
    squares = tl.zeros((BLOCK_T,), tl.float32)
    blocks = tl.cdiv(width, BLOCK_K)
    share = tl.cdiv(blocks, SPLITS)
    for block in range(split * share, tl.minimum((split + 1) * share, blocks)):
        k = block * BLOCK_K + tl.arange(0, BLOCK_K)
        inside = k < width
        v = tl.load(
            streams + t[:, None].to(tl.int64) * width + k[None, :],
            mask=present[:, None] & inside[None, :],
            other=0.0,
        )
        w = tl.load(
            fn + m[None, :] * width + k[:, None], mask=(m < MAPS)[None, :] & inside[:, None], other=0.0
        )
        maps = tl.dot(v, w, maps, input_precision="tf32x3")
        squares += tl.sum(v * v, 1)
    row = split * tokens + t
    tl.store(partial + row[:, None] * MAPS + m[None, :], maps, mask=present[:, None] & (m < MAPS)[None, :])
    tl.store(power + row, squares, mask=present)


@triton.jit
def _mix(
    streams,
    partial,
    power,
    base,
    scale,
    weight,
    x,
    post,
    comb,
    tokens,
    width,
    hc_eps,
    norm_eps,
    ITERATIONS: tl.constexpr,
    COLLAPSE: tl.constexpr,
    MAPS: tl.constexpr,
    H: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """The maps of a block of tokens, in registers, then the weighted sum of their streams, normalised."""
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    present = t < tokens
    h = tl.arange(0, H)
    squares = tl.zeros((BLOCK_T,), tl.float32)
    into = tl.zeros((BLOCK_T, H), tl.float32)
    out = tl.zeros((BLOCK_T, H), tl.float32)
    c = tl.zeros((BLOCK_T, H, H), tl.float32)
    pair = h[:, None] * H + h[None, :]
    for split in range(SPLITS):
        row = split * tokens + t
        squares += tl.load(power + row, mask=present, other=0.0)
        into += tl.load(partial + row[:, None] * MAPS + h[None, :], mask=present[:, None], other=0.0)
        if not COLLAPSE:
            out += tl.load(partial + row[:, None] * MAPS + H + h[None, :], mask=present[:, None], other=0.0)
            c += tl.load(
                partial + row[:, None, None] * MAPS + 2 * H + pair[None, :, :],
                mask=present[:, None, None],
                other=0.0,
            )
    inverse = tl.rsqrt(squares / (H * width) + norm_eps)
    gates = into * inverse[:, None] * tl.load(scale) + tl.load(base + h)[None, :]
    gates = tl.sigmoid(gates) + hc_eps
    if not COLLAPSE:
        out = out * inverse[:, None] * tl.load(scale + 1) + tl.load(base + H + h)[None, :]
        tl.store(post + t[:, None] * H + h[None, :], 2.0 * tl.sigmoid(out), mask=present[:, None])
        c = c * inverse[:, None, None] * tl.load(scale + 2) + tl.load(base + 2 * H + pair)[None, :, :]
        c = tl.exp(c - tl.max(c, 2)[:, :, None])
        c = c / tl.sum(c, 2)[:, :, None] + hc_eps
        c = c / (tl.sum(c, 1)[:, None, :] + hc_eps)
        for _ in range(ITERATIONS - 1):
            c = c / (tl.sum(c, 2)[:, :, None] + hc_eps)
            c = c / (tl.sum(c, 1)[:, None, :] + hc_eps)
        square = comb + t[:, None, None] * H * H + pair[None, :, :]
        tl.store(square, c, mask=present[:, None, None])
    # The weighted sum is made twice rather than kept: it may not fit, and the streams are in the cache.
    total = tl.zeros((BLOCK_T,), tl.float32)
    for start in range(0, width, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        place = (t[:, None, None].to(tl.int64) * H + h[None, :, None]) * width + d[None, None, :]
        v = tl.load(streams + place, mask=present[:, None, None] & (d < width)[None, None, :], other=0.0)
        v = tl.sum(v * gates[:, :, None], 1)
        total += tl.sum(v * v, 1)
    inverse = tl.rsqrt(total / width + norm_eps)
    for start in range(0, width, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        inside = d < width
        place = (t[:, None, None].to(tl.int64) * H + h[None, :, None]) * width + d[None, None, :]
        v = tl.load(streams + place, mask=present[:, None, None] & inside[None, None, :], other=0.0)
        v = tl.sum(v * gates[:, :, None], 1) * inverse[:, None]
        v = v * tl.load(weight + d, mask=inside, other=0.0)[None, :]
        tl.store(x + t[:, None].to(tl.int64) * width + d[None, :], v, mask=present[:, None] & inside[None, :])


@triton.jit
def _unmix(
    y,
    streams,
    post,
    comb,
    new,
    tokens,
    width,
    H: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """``new[k] = post_k * y + sum_j comb[j, k] * streams[j]``."""
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    k = tl.arange(0, H)
    present, inside = t < tokens, d < width
    both = present[:, None] & inside[None, :]
    row = t.to(tl.int64)
    value = tl.load(y + row[:, None] * width + d[None, :], mask=both, other=0.0)
    weight = tl.load(post + t[:, None] * H + k[None, :], mask=present[:, None], other=0.0)
    total = weight[:, :, None] * value[:, None, :]
    for j in tl.static_range(0, H):
        stream = tl.load(streams + (row[:, None] * H + j) * width + d[None, :], mask=both, other=0.0)
        part = tl.load(comb + (t[:, None] * H + j) * H + k[None, :], mask=present[:, None], other=0.0)
        total += part[:, :, None] * stream[:, None, :]
    place = (row[:, None, None] * H + k[None, :, None]) * width + d[None, None, :]
    tl.store(new + place, total, mask=both[:, None, :])


def mix(streams: Tensor, site: MixingWeights, norm: Tensor, config: ModelConfig, tuning: Tuning) -> Mixed:
    """The site's maps and its normalised input, of fp32 ``streams [N, h, d]``."""
    return _mixed(streams, site, norm, config, tuning, whole=True)


def collapse(
    streams: Tensor, site: MixingWeights, norm: Tensor, config: ModelConfig, tuning: Tuning
) -> Tensor:
    """``hc_head`` and the norm after it: fp32 ``[N, d]``."""
    return _mixed(streams, site, norm, config, tuning, whole=False).x


def _mixed(
    streams: Tensor, site: MixingWeights, norm: Tensor, config: ModelConfig, tuning: Tuning, *, whole: bool
) -> Mixed:
    tokens, h, d = streams.shape
    maps = site.fn.shape[0]
    rows, depth = 16 * triton.cdiv(tuning.tokens, 16), 64
    blocks = triton.cdiv(tokens, rows)
    splits = max(1, min(tuning.programs // blocks, triton.cdiv(h * d, depth), 64))
    partial = streams.new_empty(splits, tokens, maps)
    power = streams.new_empty(splits, tokens)
    _partial_maps[(blocks, splits)](
        streams,
        site.fn,
        partial,
        power,
        tokens,
        h * d,
        MAPS=maps,
        BLOCK_T=rows,
        BLOCK_M=block_of(maps, 16),
        BLOCK_K=depth,
        SPLITS=splits,
    )
    x = streams.new_empty(tokens, d)
    post = streams.new_empty(tokens, h) if whole else partial
    comb = streams.new_empty(tokens, h, h) if whole else partial
    _mix[(triton.cdiv(tokens, tuning.tokens),)](
        streams,
        partial,
        power,
        site.base,
        site.scale,
        norm,
        x,
        post,
        comb,
        tokens,
        d,
        config.hc_eps,
        config.rms_norm_eps,
        ITERATIONS=config.hc_sinkhorn_iters,
        COLLAPSE=not whole,
        MAPS=maps,
        H=h,
        BLOCK_T=tuning.tokens,
        BLOCK_D=min(block_of(d), 1024),
        SPLITS=splits,
    )
    return Mixed(x, post, comb)


def unmix(y: Tensor, streams: Tensor, mixed: Mixed, tuning: Tuning) -> Tensor:
    """New streams ``[N, h, d]`` from the site's output ``y [N, d]`` and the old streams."""
    tokens, h, d = streams.shape
    new = torch.empty_like(streams)
    width = min(block_of(d), 512)
    _unmix[(triton.cdiv(tokens, tuning.tokens), triton.cdiv(d, width))](
        y,
        streams,
        mixed.post,
        mixed.comb,
        new,
        tokens,
        d,
        H=h,
        BLOCK_T=tuning.tokens,
        BLOCK_D=width,
    )
    return new
