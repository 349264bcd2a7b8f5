"""Manifold-constrained hyper-connections: the residual streams, their mixing maps and the final collapse."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dsv4_model.norm import linear_fp32

__all__ = ["Mixing", "collapse", "mixing", "post", "pre", "sinkhorn"]


class Mixing:
    """Per-token maps of one site, token axes last: ``pre [h, ...]``, ``post [h, ...]``, ``comb [h, h, ...]``."""

    __slots__ = ("comb", "post", "pre")

    def __init__(self, pre: Tensor, post: Tensor, comb: Tensor) -> None:
        self.pre = pre
        self.post = post
        self.comb = comb


class _Sinkhorn(torch.autograd.Function):
    """Alternating normalisation with an analytic gradient: two small tensors a half-step are kept.

    For ``y = c / (sum(c) + eps)`` the gradient is ``(dy - sum(dy * y)) / (sum(c) + eps)``.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, iterations: int, eps: float) -> Tensor:
        saved: list[Tensor] = []
        for step in range(2 * iterations - 1):
            axis = step % 2  # column sums run over axis 0 (rows j), row sums over axis 1 (columns k)
            inverse = (matrix.sum(axis, keepdim=True) + eps).reciprocal_()
            matrix = matrix * inverse
            saved += (matrix, inverse)
        ctx.save_for_backward(*saved)
        return matrix

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        grad = grads[0]
        saved = ctx.saved_tensors
        for step in range(len(saved) // 2 - 1, -1, -1):
            matrix, inverse = saved[2 * step], saved[2 * step + 1]
            grad = (grad - (grad * matrix).sum(step % 2, keepdim=True)) * inverse
        return grad, None, None


def sinkhorn(logits: Tensor, iterations: int, eps: float) -> Tensor:
    """Nearly doubly stochastic matrices from ``logits [h, h, ...]`` (row j, column k, tokens last).

    Row softmax plus ``eps``, a column normalisation, then ``iterations - 1`` row and column normalisations: the
    last one is by column, and ``eps`` stands in every denominator because the model was trained so.
    """
    start = logits.softmax(1) + eps
    if torch.is_grad_enabled() and start.requires_grad:
        balanced: Tensor = _Sinkhorn.apply(start, iterations, eps)  # type: ignore[no-untyped-call]
        return balanced
    for step in range(2 * iterations - 1):
        start = start / (start.sum(step % 2, keepdim=True) + eps)
    return start


def _raw_maps(streams: Tensor, fn: Tensor, norm_eps: float) -> Tensor:
    """``fn @ v / rms(v)`` over the flattened streams, ``[maps, B, S]`` in fp32."""
    flat = streams.flatten(2).float()
    scale = torch.rsqrt(flat.square().mean(-1) + norm_eps)
    return linear_fp32(flat, fn).permute(2, 0, 1).contiguous() * scale


def mixing(
    streams: Tensor, fn: Tensor, base: Tensor, scale: Tensor, *, iterations: int, eps: float, norm_eps: float
) -> Mixing:
    """The three maps of one site for ``streams [B, S, h, d]``; fp32."""
    h = streams.shape[2]
    maps = _raw_maps(streams, fn, norm_eps)
    bias = base.view(-1, 1, 1)
    gate_pre = torch.sigmoid(maps[:h] * scale[0] + bias[:h]) + eps
    gate_post = 2 * torch.sigmoid(maps[h : 2 * h] * scale[1] + bias[h : 2 * h])
    logits = maps[2 * h :] * scale[2] + bias[2 * h :]
    return Mixing(gate_pre, gate_post, sinkhorn(logits.unflatten(0, (h, h)), iterations, eps))


def pre(streams: Tensor, gate: Tensor) -> Tensor:
    """Weighted sum of the streams, ``[B, S, d]`` in their dtype; ``gate [h, B, S]``."""
    return (gate.permute(1, 2, 0).unsqueeze(-1) * streams).sum(2).to(streams.dtype)


def post(y: Tensor, streams: Tensor, maps: Mixing) -> Tensor:
    """New streams ``[B, S, h, d]``: stream k gets ``post_k * y + sum_j comb[j, k] * stream_j``."""
    comb = maps.comb.permute(0, 2, 3, 1).unsqueeze(-1)  # [j, B, S, k, 1]
    out = maps.post.permute(1, 2, 0).unsqueeze(-1) * y.unsqueeze(2)
    for j in range(streams.shape[2]):
        out = out + comb[j] * streams[:, :, j : j + 1]
    return out.to(streams.dtype)


def collapse(
    streams: Tensor, fn: Tensor, base: Tensor, scale: Tensor, *, eps: float, norm_eps: float
) -> Tensor:
    """``hc_head``: the streams become one vector a token, ``[B, S, d]``."""
    maps = _raw_maps(streams, fn, norm_eps)
    return pre(streams, torch.sigmoid(maps * scale + base.view(-1, 1, 1)) + eps)
