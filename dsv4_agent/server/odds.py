"""Log-probabilities of a sampled token: those of the model itself, before temperature, cuts and grammar."""

from __future__ import annotations

import torch
from torch import Tensor

from dsv4_agent.server.turns import TokenOdds

__all__ = ["odds_of"]


def odds_of(logits: Tensor, token: int, top: int, size: int) -> TokenOdds:
    """The odds of `token` among `logits` ``[vocab]``, with the `top` likeliest alternatives.

    Rows from `size` on belong to no token and count as little as they do in sampling.
    """
    logs = torch.log_softmax(logits[:size].detach().float(), 0)
    if not top:
        return TokenOdds(float(logs[token]))
    values, ids = logs.topk(min(top, logs.shape[0]))
    return TokenOdds(float(logs[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))
