"""FP8, FP4 and Hadamard primitives of DeepSeek-V4 (section 2.8 of the dossier), in exact PyTorch arithmetic.

Every scale is a power of two, so that scaling itself never rounds. Activations are quantised in groups along
the last dimension, FP8 weights in 128 x 128 blocks, FP4 weights in groups of 32 along the input dimension.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

FP8_MAX = 448.0
FP4_MAX = 6.0
FP8_BLOCK = 128
FP4_GROUP = 32
_TINY = 2.0**-126  # the smallest normal fp32 number, hence the smallest scale written


def pow2ceil(a: Tensor) -> Tensor:
    """The smallest power of two >= ``a`` (fp32, positive), by its exponent bits: never rounds."""
    bits = a.float().view(torch.int32)
    exponent = (bits >> 23) + ((bits & 0x7FFFFF) != 0).to(torch.int32)
    return (exponent << 23).view(torch.float32)


def fp8_round_trip(x: Tensor, group: int) -> Tensor:
    """``x`` after FP8 (e4m3) quantisation in groups of ``group`` along the last dimension, in ``x.dtype``.

    Gradients pass straight through.
    """
    return _straight_through(x, _fp8_groups(x.detach(), group))


def fp4_round_trip(x: Tensor, group: int = FP4_GROUP) -> Tensor:
    """``x`` after FP4 (e2m1) quantisation in groups of ``group`` along the last dimension, in ``x.dtype``.

    Gradients pass straight through.
    """
    values, length = _grouped(x.detach().float(), group)
    scale = pow2ceil(values.abs().amax(-1, keepdim=True).clamp_min(FP4_MAX * _TINY) / FP4_MAX)
    rounded = round_to_e2m1((values / scale).clamp(-FP4_MAX, FP4_MAX)) * scale
    return _straight_through(x, rounded.flatten(-2)[..., :length].to(x.dtype))


def hadamard(x: Tensor) -> Tensor:
    """Walsh-Hadamard transform (Sylvester order) of the last dimension, scaled by ``n ** -0.5``; any dtype.

    Computed in fp32 and returned in ``x.dtype``. It is its own inverse.

    Raises:
        ValueError: the last dimension is not a power of two.
    """
    n = x.shape[-1]
    if n < 1 or n & (n - 1):
        raise ValueError(f"the Hadamard transform needs a power of two, not {n} channels")
    y = x.float()
    step = 1
    while step < n:
        a, b = y.reshape(*x.shape[:-1], n // (2 * step), 2, step).unbind(-2)
        y = torch.stack((a + b, a - b), -2).flatten(-3)
        step *= 2
    return (y * (1 / math.sqrt(n))).to(x.dtype)


def round_to_e2m1(x: Tensor) -> Tensor:
    """``x`` (|x| <= 6) rounded to nearest, ties to even, on {0, .5, 1, 1.5, 2, 3, 4, 6} and negatives."""
    a = x.abs()
    rounded = torch.where(a <= 2, (a * 2).round() / 2, torch.where(a <= 4, a.round(), (a / 2).round() * 2))
    return torch.copysign(rounded, x)


def pack_fp4(values: Tensor) -> Tensor:
    """e2m1 values ``[..., n]`` (n even) to int8 ``[..., n / 2]``; element 2j sits in the low nibble."""
    a = values.abs()
    index = torch.where(a < 2, a * 2, torch.where(a < 4, a + 2, a / 2 + 4)).to(torch.uint8)
    codes = index | (torch.signbit(values).to(torch.uint8) << 3)
    low, high = codes[..., 0::2], codes[..., 1::2]
    return (low | (high << 4)).view(torch.int8)


def unpack_fp4(packed: Tensor) -> Tensor:
    """The inverse of :func:`pack_fp4`: int8 or uint8 ``[..., n / 2]`` to fp32 ``[..., n]``."""
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float32, device=packed.device)
    table = torch.cat((table, -table))
    raw = packed.contiguous().view(torch.uint8)
    codes = torch.stack((raw & 0xF, raw >> 4), -1).flatten(-2)
    return table[codes.int()]


def quantize_fp8_blocks(weight: Tensor) -> tuple[Tensor, Tensor]:
    """``[out, in]`` to (float8_e4m3fn ``[out, in]``, float8_e8m0fnu ``[ceil(out/128), ceil(in/128)]``)."""
    rows, columns = weight.shape
    padded = functional.pad(weight.detach().float(), (0, -columns % FP8_BLOCK, 0, -rows % FP8_BLOCK))
    blocks = padded.reshape(-(-rows // FP8_BLOCK), FP8_BLOCK, -(-columns // FP8_BLOCK), FP8_BLOCK)
    scale = pow2ceil(blocks.abs().amax((1, 3)).clamp_min(FP8_MAX * _TINY) / FP8_MAX)
    scaled = (blocks / scale[:, None, :, None]).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
    whole = scaled.reshape(padded.shape)
    return whole[:rows, :columns].contiguous(), encode_ue8m0(scale)


def dequantize_fp8_blocks(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of :func:`quantize_fp8_blocks`, exact, in ``dtype``."""
    rows, columns = weight.shape
    grid = scale.float().repeat_interleave(FP8_BLOCK, 0)[:rows].repeat_interleave(FP8_BLOCK, 1)[:, :columns]
    return (weight.float() * grid).to(dtype)


def quantize_fp4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """``[out, in]`` (in even) to (packed int8 ``[out, in / 2]``, float8_e8m0fnu ``[out, ceil(in / 32)]``)."""
    values, length = _grouped(weight.detach().float(), FP4_GROUP)
    scale = pow2ceil(values.abs().amax(-1, keepdim=True).clamp_min(FP4_MAX * _TINY) / FP4_MAX)
    rounded = round_to_e2m1((values / scale).clamp(-FP4_MAX, FP4_MAX)).flatten(-2)[..., :length]
    return pack_fp4(rounded), encode_ue8m0(scale.squeeze(-1))


def dequantize_fp4(packed: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of :func:`quantize_fp4`, exact, in ``dtype``."""
    values = unpack_fp4(packed)
    grid = scale.float().repeat_interleave(FP4_GROUP, 1)[:, : values.shape[1]]
    return (values * grid).to(dtype)


def encode_ue8m0(scale: Tensor) -> Tensor:
    """fp32 powers of two (>= 2**-126) to float8_e8m0fnu: the exponent byte, reinterpreted, never cast."""
    return (scale.view(torch.int32) >> 23).to(torch.uint8).view(torch.float8_e8m0fnu)


def _fp8_groups(x: Tensor, group: int) -> Tensor:
    values, length = _grouped(x.float(), group)
    amax = values.abs().amax(-1, keepdim=True).clamp_min(1e-4)
    scale = pow2ceil(amax * (1 / FP8_MAX))
    scaled = (values / scale).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
    return (scaled.float() * scale).flatten(-2)[..., :length].to(x.dtype)


def _grouped(x: Tensor, group: int) -> tuple[Tensor, int]:
    """``[..., n]`` zero-padded and split to ``[..., ceil(n / group), group]``, with n."""
    length = x.shape[-1]
    if length % group:
        x = functional.pad(x, (0, -length % group))
    return x.reshape(*x.shape[:-1], -(-length // group), group), length


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor, rounded: Tensor) -> Tensor:
        return rounded

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    if not (torch.is_grad_enabled() and x.requires_grad):
        return rounded
    result: Tensor = _StraightThrough.apply(x, rounded)  # type: ignore[no-untyped-call]
    return result
