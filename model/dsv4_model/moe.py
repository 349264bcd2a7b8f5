"""Mixture of experts: hash or score routing, clamped SwiGLU experts, one shared expert."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dsv4_model.vector_math  # noqa: F401 - before the first large tensor
from dsv4_model.config import ModelConfig
from dsv4_model.norm import Linear, linear_fp32

__all__ = ["Expert", "Gate", "MoE"]


class Gate(nn.Module):
    """Router: scores ``sqrt(softplus(W x))``; experts by token id in hash layers, else by biased score."""

    tid2eid: Tensor | None
    bias: nn.Parameter | None

    def __init__(self, config: ModelConfig, dtype: torch.dtype, *, hashed: bool) -> None:
        super().__init__()
        self.chosen = config.num_experts_per_tok
        self.factor = config.routed_scaling_factor
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size, dtype=dtype))
        if hashed:
            table = torch.zeros(config.vocab_size, self.chosen, dtype=torch.long)
            self.register_buffer("tid2eid", table)
            self.register_parameter("bias", None)
        else:
            self.tid2eid = None
            self.bias = nn.Parameter(torch.zeros(config.n_routed_experts))

    def forward(self, x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (fp32) and expert ids, both ``[N, chosen]``, for ``x [N, d]`` with token ids ``[N]``."""
        scores = F.softplus(linear_fp32(x, self.weight)).sqrt()
        if self.tid2eid is not None:
            experts = self.tid2eid[ids]
        else:
            # The correction bias steers the choice only; it is balanced outside of the gradient.
            assert self.bias is not None
            experts = (scores.detach() + self.bias.detach()).topk(self.chosen, dim=-1).indices
        weights = scores.gather(-1, experts)
        return weights / weights.sum(-1, keepdim=True) * self.factor, experts


class Expert(nn.Module):
    """SwiGLU with clamped inputs: the gate from above, the other branch on both sides."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        d, inner = config.hidden_size, config.moe_intermediate_size
        self.limit = config.swiglu_limit
        self.w1 = Linear(d, inner, dtype, quantize_input=True)
        self.w2 = Linear(inner, d, dtype, quantize_input=True)
        self.w3 = Linear(d, inner, dtype, quantize_input=True)

    def forward(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """``x [N, d]``; ``weight [N, 1]`` multiplies the intermediate, before ``w2``, as in training."""
        gate, value = self.w1(x).float(), self.w3(x).float()
        if self.limit > 0:
            gate, value = gate.clamp(max=self.limit), value.clamp(-self.limit, self.limit)
        inner = F.silu(gate) * value
        if weight is not None:
            inner = inner * weight
        out: Tensor = self.w2(inner.to(x.dtype))
        return out


class MoE(nn.Module):
    """The feed-forward site: chosen routed experts plus the shared one."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, *, hashed: bool) -> None:
        super().__init__()
        self.gate = Gate(config, dtype, hashed=hashed)
        self.experts = nn.ModuleList(Expert(config, dtype) for _ in range(config.n_routed_experts))
        self.shared_experts = Expert(config, dtype)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        """``x [B, S, d]`` with token ids ``[B, S]``; the result has the dtype of ``x``."""
        flat = x.flatten(0, 1)
        weights, experts = self.gate(flat, ids.flatten())
        if flat.shape[0] == 1 and not torch.is_grad_enabled():
            return self._single(flat, weights, experts).view_as(x)
        # One sort groups the (token, slot) pairs by expert: one gather, a matmul a used expert, one scatter.
        slots = experts.shape[1]
        owners = experts.flatten()
        order = owners.argsort(stable=True)
        tokens = order // slots
        counts = owners.bincount(minlength=len(self.experts)).tolist()
        inputs = torch.split(flat.index_select(0, tokens), counts)
        scales = torch.split(weights.flatten().index_select(0, order).unsqueeze(1), counts)
        outputs = [
            expert(part, scale)
            for expert, part, scale in zip(self.experts, inputs, scales, strict=True)
            if part.shape[0]
        ]
        total = self.shared_experts(flat).float().index_add(0, tokens, torch.cat(outputs).float())
        out: Tensor = total.to(x.dtype).view_as(x)
        return out

    def _single(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """One decoded token: nothing to group."""
        total: Tensor = self.shared_experts(x).float()
        for expert, weight in zip(experts[0].tolist(), torch.split(weights[0], 1), strict=True):
            total = total + self.experts[expert](x, weight).float()
        return total.to(x.dtype)
