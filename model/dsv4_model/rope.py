"""Rotary positions: YaRN frequencies, cached tables, partial interleaved rotation and its inverse."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import dsv4_model.vector_math  # noqa: F401 - before the first large tensor
from dsv4_model.config import ModelConfig, YarnScaling

__all__ = ["RopeTable", "rope_frequencies", "rotate"]


def rope_frequencies(dim: int, theta: float, yarn: YarnScaling | None) -> Tensor:
    """Angular frequencies ``[dim / 2]`` (fp32, radians per position); YaRN-blended when ``yarn`` is given."""
    # Always on the CPU: a table is no weight, and on the meta device arange would import a compiler.
    base = 1.0 / float(theta) ** (torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim)
    if yarn is None:
        return base

    def channel(rotations: float) -> float:
        span = yarn.original_max_position_embeddings / (rotations * 2 * math.pi)
        return dim * math.log(span) / (2 * math.log(theta))

    low = max(math.floor(channel(yarn.beta_fast)), 0)
    high = min(math.ceil(channel(yarn.beta_slow)), dim - 1)
    ramp = ((torch.arange(dim // 2, dtype=torch.float32, device="cpu") - low) / max(high - low, 1e-3)).clamp(
        0, 1
    )
    return base * (1 - ramp) + base / float(yarn.factor) * ramp


class RopeTable:
    """Cosines and sines of one layer type, computed once, grown on demand; not part of the state dict."""

    def __init__(self, dim: int, theta: float, yarn: YarnScaling | None) -> None:
        self._frequencies = rope_frequencies(dim, theta, yarn)
        self._cos = torch.empty(0, dim // 2, device="cpu")
        self._sin = torch.empty(0, dim // 2, device="cpu")

    @classmethod
    def for_ratio(cls, config: ModelConfig, ratio: int) -> RopeTable:
        """The table of layers with compression ``ratio``: only layers with a compressor use YaRN."""
        if ratio == 0:
            return cls(config.qk_rope_head_dim, config.rope_theta, None)
        return cls(config.qk_rope_head_dim, config.compress_rope_theta, config.rope_scaling)

    def span(self, start: int, count: int, device: torch.device, step: int = 1) -> tuple[Tensor, Tensor]:
        """``(cos, sin)``, each ``[count, dim / 2]``, of positions ``start, start + step, ...``."""
        end = start + (count - 1) * step + 1
        if self._cos.shape[0] < end or self._cos.device != device:
            self._grow(max(end, 2 * self._cos.shape[0], 1024), device)
        return self._cos[start:end:step], self._sin[start:end:step]

    @torch.inference_mode(False)  # a table first used while serving must serve autograd later
    def _grow(self, length: int, device: torch.device) -> None:
        angles = torch.outer(torch.arange(length, dtype=torch.float32), self._frequencies)
        self._cos, self._sin = angles.cos().to(device), angles.sin().to(device)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    width = 2 * cos.shape[-1]
    out = x.clone(memory_format=torch.contiguous_format)
    pairs = x[..., -width:].view(*x.shape[:-1], -1, 2).float()
    even, odd = pairs[..., 0], pairs[..., 1]
    target = out[..., -width:].view(*out.shape[:-1], -1, 2)
    target[..., 0] = even * cos - odd * sin
    target[..., 1] = even * sin + odd * cos
    return out


class _Rotation(torch.autograd.Function):
    """A rotation is orthogonal: its gradient is the inverse rotation, and nothing but the angles is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(grads[0], cos, -sin), None, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, inverse: bool = False) -> Tensor:
    """Rotate the last ``2 * cos.shape[-1]`` channels of ``x`` as interleaved pairs; a new tensor.

    ``cos`` and ``sin`` broadcast against ``x[..., :pairs]``; ``inverse`` applies the conjugate rotation.
    The arithmetic is fp32, the result has the dtype of ``x``.
    """
    if inverse:
        sin = -sin
    if torch.is_grad_enabled() and x.requires_grad:
        rotated: Tensor = _Rotation.apply(x, cos, sin)  # type: ignore[no-untyped-call]
        return rotated
    return _rotated(x, cos, sin)
