"""Random initial weights for small models trained from nothing."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dsv4_model.config import ModelConfig

__all__ = ["initialize"]


@torch.no_grad()
def initialize(model: nn.Module, config: ModelConfig, generator: torch.Generator | None = None) -> None:
    """Fill all parameters of ``model`` (official names) in place.

    Matrices are normal with standard deviation ``1 / sqrt(fan_in)``; what writes into the streams (``wo_b``,
    ``w2``) is scaled down by ``1 / sqrt(2 L)``; the table and head take ``initializer_range``. The maps
    start as a plain residual: read the mean of the streams, write to all of them, keep each where it is. Hash
    tables give every token ``num_experts_per_tok`` different experts.
    """
    depth = 1 / math.sqrt(2 * config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        _fill(name, parameter, config, depth, generator)
    for name, buffer in model.named_buffers():
        if name.endswith("tid2eid"):
            noise = torch.rand(buffer.shape[0], config.n_routed_experts, generator=generator)
            buffer.copy_(noise.argsort(-1)[:, : buffer.shape[1]])


def _fill(
    name: str, parameter: Tensor, config: ModelConfig, depth: float, generator: torch.Generator | None
) -> None:
    leaf = name.rsplit(".", 1)[-1]
    match leaf:
        case "hc_attn_base" | "hc_ffn_base":
            parameter.copy_(_residual_base(config.hc_mult))
        case "hc_head_base":
            parameter.fill_(_logit(1 / config.hc_mult))
        case "hc_attn_scale" | "hc_ffn_scale" | "hc_head_scale":
            parameter.fill_(0.1)
        case "hc_attn_fn" | "hc_ffn_fn" | "hc_head_fn":
            _normal(parameter, config.initializer_range, generator)
        case "attn_sink" | "bias" | "ape":
            parameter.zero_()
        case _ if parameter.ndim == 1:
            parameter.fill_(1.0)
        case _ if name in ("embed.weight", "head.weight"):
            _normal(parameter, config.initializer_range, generator)
        case _:
            deviation = 1 / math.sqrt(parameter.shape[1])
            writes = name.endswith(("wo_b.weight", "w2.weight"))
            _normal(parameter, deviation * (depth if writes else 1.0), generator)


def _normal(parameter: Tensor, deviation: float, generator: torch.Generator | None) -> None:
    parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)


def _logit(p: float) -> float:
    return math.log(p / (1 - p)) if 0 < p < 1 else 4.0


def _residual_base(h: int) -> Tensor:
    """pre = 1/h, post = 1, comb close to the identity."""
    comb = torch.full((h, h), -4.0)
    comb.fill_diagonal_(4.0)
    return torch.cat((torch.full((h,), _logit(1 / h)), torch.zeros(h), comb.flatten()))
