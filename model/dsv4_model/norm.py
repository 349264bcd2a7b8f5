"""Building blocks without positions: RMSNorm and the linear maps with their precision rules."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Linear", "RMSNorm", "linear_fp32", "rms_normalize"]


def rms_normalize(x: Tensor, eps: float) -> Tensor:
    """``x / sqrt(mean(x^2) + eps)`` over the last axis, in fp32, cast back to the dtype of ``x``."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm with a weight; internals in fp32, result in the input's dtype."""

    def __init__(self, size: int, eps: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (scaled * self.weight).to(x.dtype)


class Linear(nn.Module):
    """``y = x W^T``; ``weight`` is ``[out, in]``.

    With ``quantize_input`` the input takes an FP8 round trip in groups of 128 while ``simulate_quantization``
    is on: the checkpoint was trained with it (section 2.8 of the dossier).
    """

    ACTIVATION_GROUP = 128

    def __init__(
        self, inputs: int, outputs: int, dtype: torch.dtype, *, quantize_input: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, dtype=dtype))
        self.quantize_input = quantize_input
        self.simulate_quantization = False

    def forward(self, x: Tensor) -> Tensor:
        if self.simulate_quantization and self.quantize_input:
            from dsv4_model.quantization import fp8_round_trip

            x = fp8_round_trip(x, self.ACTIVATION_GROUP)
        return F.linear(x, self.weight)


def linear_fp32(x: Tensor, weight: Tensor) -> Tensor:
    """``x W^T`` in fp32 whatever the storage types are, also under autocast."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        with torch.autocast(kind, enabled=False):
            return F.linear(x.float(), weight.float())
    return F.linear(x.float(), weight.float())
