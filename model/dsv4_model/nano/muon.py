"""Muon: momentum whose matrices are made orthogonal before they are applied, as DeepSeek-V4 was trained.

Jordan et al. 2024; the scale that lets it share AdamW's rates is that of Liu et al. 2025 (arXiv 2502.16982,
section 2.2).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
STEPS = 5
ADAMW_RMS = 0.2
"""Root mean square of a typical AdamW update; an orthogonal one is scaled to it."""


def orthogonal(matrices: Tensor) -> Tensor:
    """Roughly the nearest semi-orthogonal matrices (singular values 0.7 .. 1.2) of ``[n, rows, columns]``.

    In bfloat16: the polynomial forgives its rounding, and CPUs multiply it several times faster.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.bfloat16()
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """For weight matrices only; those of one shape are handled together, as one stack.

    Nesterov momentum; decoupled weight decay. `state_dict` holds one momentum a parameter.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Apply one update; parameters without a gradient are left alone."""
        for group in self.param_groups:
            stacks: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    stacks.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in stacks.items():
                gradients = [p.grad for p in parameters if p.grad is not None]
                momenta = [self._momentum(p) for p in parameters]
                torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
                looked_ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])
                updates = orthogonal(torch.stack(looked_ahead)).unbind(0)
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                rate = group["lr"] * ADAMW_RMS * max(shape) ** 0.5
                torch._foreach_add_(parameters, updates, alpha=-rate)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        return momentum
