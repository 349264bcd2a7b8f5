"""The feed-forward site: routing, the routed experts over packed weights, the shared expert."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from dsv4_model.config import ModelConfig
from dsv4_model.kernels.gpu.matmul import Grouping, Stack, multiply, multiply_grouped, round_activations
from dsv4_model.kernels.gpu.tuning import Tuning, block_of
from dsv4_model.matrix import MatrixKind
from dsv4_model.weights import ExpertWeights, LayerWeights

__all__ = ["FeedForward"]


@triton.jit
def _swiglu(
    gate,
    value,
    weights,
    order,
    out,
    rows,
    N,
    limit,
    WEIGHTED: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """``silu(min(gate, limit)) * clamp(value)``, times the row's routing weight."""
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    present = r < rows
    mask = present[:, None] & (n < N)[None, :]
    place = r[:, None] * N + n[None, :]
    a = tl.load(gate + place, mask=mask, other=0.0)
    b = tl.load(value + place, mask=mask, other=0.0)
    if limit > 0:
        a = tl.minimum(a, limit)
        b = tl.minimum(tl.maximum(b, -limit), limit)
    y = a * tl.sigmoid(a) * b
    if WEIGHTED:
        pair = tl.load(order + r, mask=present, other=0)
        y = y * tl.load(weights + pair, mask=present, other=0.0)[:, None]
    tl.store(out + place, y, mask=mask)


def _activate(
    gate: Tensor, value: Tensor, weights: Tensor | None, order: Tensor, limit: float, tuning: Tuning
) -> Tensor:
    rows, n = gate.shape
    out = torch.empty_like(gate)
    width = min(block_of(n), 1024)
    _swiglu[(triton.cdiv(rows, tuning.tokens), triton.cdiv(n, width))](
        gate,
        value,
        gate if weights is None else weights,
        order,
        out,
        rows,
        n,
        float(limit),
        WEIGHTED=weights is not None,
        BLOCK_R=tuning.tokens,
        BLOCK_N=width,
    )
    return out


@dataclass(frozen=True, slots=True)
class FeedForward:
    """One layer's experts, bound to where their weights lie."""

    w1: Stack
    w2: Stack
    w3: Stack
    shared: tuple[Stack, Stack, Stack]
    gate: Stack
    bias: Tensor | None
    table: Tensor | None
    config: ModelConfig
    rounds: bool

    @classmethod
    def of(cls, layer: LayerWeights, config: ModelConfig, *, rounds: bool) -> FeedForward:
        """Raises TypeError where experts are not all in memory, ValueError where they differ in shape."""
        experts = layer.experts
        if not isinstance(experts, tuple):
            raise TypeError("experts that are streamed from disk can't be used on a GPU")
        every: tuple[ExpertWeights, ...] = experts
        w1, w2, w3 = layer.shared.matrices
        return cls(
            w1=Stack.of(tuple(expert.w1 for expert in every)),
            w2=Stack.of(tuple(expert.w2 for expert in every)),
            w3=Stack.of(tuple(expert.w3 for expert in every)),
            shared=(Stack.of((w1,)), Stack.of((w2,)), Stack.of((w3,))),
            gate=Stack.of((layer.gate,)),
            bias=layer.gate_bias,
            table=layer.tid2eid,
            config=config,
            rounds=rounds,
        )

    def __call__(self, x: Tensor, ids: Tensor, tuning: Tuning, *, exact: bool) -> tuple[Tensor, Tensor]:
        """``(y [N, d], experts int64 [N, chosen])`` of normalised ``x [N, d]`` with token ids ``[N]``."""
        c = self.config
        # Scores decide which expert is taken: they are never rounded.
        scores = F.softplus(multiply(x, self.gate, tuning, exact=True)).sqrt()
        if self.table is not None:
            chosen = self.table[ids]
        else:
            assert self.bias is not None
            chosen = (scores + self.bias).topk(c.num_experts_per_tok, dim=-1).indices
        weights = scores.gather(-1, chosen)
        weights = (weights / weights.sum(-1, keepdim=True) * c.routed_scaling_factor).contiguous()
        grouping = Grouping.of(chosen, c.n_routed_experts)
        if self.rounds:
            x = round_activations(x, tuning)
        precise = exact or self.w1.kind is MatrixKind.FP32
        gate = multiply_grouped(x, self.w1, grouping, tuning, exact=precise, back=False)
        value = multiply_grouped(x, self.w3, grouping, tuning, exact=precise, back=False)
        inner = _activate(gate, value, weights, grouping.order, c.swiglu_limit, tuning)
        if self.rounds:
            inner = round_activations(inner, tuning)
        routed = multiply_grouped(inner, self.w2, grouping, tuning, exact=precise, back=True)
        y = self._shared(x, tuning, exact=exact)
        return y + routed.view(len(x), c.num_experts_per_tok, -1).sum(1), chosen

    def _shared(self, x: Tensor, tuning: Tuning, *, exact: bool) -> Tensor:
        """The shared expert of ``x``, which has been rounded already."""
        w1, w2, w3 = self.shared
        exact = exact or w1.kind is MatrixKind.FP32
        gate, value = multiply(x, w1, tuning, exact=exact), multiply(x, w3, tuning, exact=exact)
        inner = _activate(gate, value, None, w1.table, self.config.swiglu_limit, tuning)
        if self.rounds:
            inner = round_activations(inner, tuning)
        return multiply(inner, w2, tuning, exact=exact)
