"""The feed-forward site in PyTorch, computed where its weights lie."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

import dsv4_model.vector_math  # noqa: F401 - before the first large tensor
from dsv4_model.config import ModelConfig
from dsv4_model.torch_linears import TorchLinears
from dsv4_model.weights import ExpertWeights, LayerWeights

__all__ = ["TorchFeedForward"]


class TorchFeedForward:
    """``expand_experts``: keep routed experts in fp32 once they have been used."""

    def __init__(self, config: ModelConfig, linears: TorchLinears, *, expand_experts: bool) -> None:
        self._config, self._linears, self._expand = config, linears, expand_experts

    def route(self, x: Tensor, ids: Tensor, layer: LayerWeights) -> tuple[Tensor, Tensor]:
        """Weights and experts ``[tokens, chosen]`` of normalised ``x [tokens, d]`` with token ids
        ``[tokens]``, all on the device of the layer's router."""
        c = self._config
        scores = F.softplus(self._linears(x, layer.gate)).sqrt()
        if layer.tid2eid is not None:
            experts = layer.tid2eid[ids]
        else:
            assert layer.gate_bias is not None
            experts = (scores + layer.gate_bias).topk(c.num_experts_per_tok, dim=-1).indices
        weights = scores.gather(-1, experts)
        return weights / weights.sum(-1, keepdim=True) * c.routed_scaling_factor, experts

    def __call__(self, x: Tensor, ids: Tensor, layer: LayerWeights, counts: Tensor | None = None) -> Tensor:
        """The site's output ``[tokens, d]`` on the device of ``x``; ``counts`` is raised on the CPU."""
        asking, there = x.device, layer.gate.data.device
        x, ids = x.to(there), ids.to(there)
        weights, experts = self.route(x, ids, layer)
        if counts is not None:
            counts += experts.flatten().bincount(minlength=self._config.n_routed_experts).cpu()
        out = self._expert(x, layer.shared, None)
        for number in sorted(set(experts.flatten().tolist())):
            tokens, slots = (experts == number).nonzero(as_tuple=True)
            weight = weights[tokens, slots].unsqueeze(1)
            out.index_add_(0, tokens, self._expert(x[tokens], layer.experts[number], weight))
        return out.to(asking)

    def _expert(self, x: Tensor, expert: ExpertWeights, weight: Tensor | None) -> Tensor:
        limit = self._config.swiglu_limit
        keep = weight is None or self._expand
        gate = self._linears(x, expert.w1, rounds=True, keep=keep)
        value = self._linears(x, expert.w3, rounds=True, keep=keep)
        if limit > 0:
            gate, value = gate.clamp(max=limit), value.clamp(-limit, limit)
        inner = F.silu(gate) * value
        return self._linears(inner if weight is None else inner * weight, expert.w2, rounds=True, keep=keep)
