"""Softmax attention of many query heads over one shared K=V head with a sink in the denominator."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["sink_attention", "window_mask"]


def window_mask(queries: int, rows: int, window: int, device: torch.device) -> Tensor | None:
    """``[S, T]``: row j is visible to query i when it is at most ``window - 1`` positions older, never newer.

    The last ``queries`` rows are the queries' own. ``None`` when everything is visible (one query).
    """
    if queries == 1 and rows <= window:
        return None
    age = torch.arange(queries, device=device).unsqueeze(1) + (rows - queries)
    age = age - torch.arange(rows, device=device)
    return (age >= 0) & (age < window)


def sink_attention(
    q: Tensor,
    rows: Tensor,
    entries: Tensor | None,
    selected: Tensor | None,
    sink: Tensor,
    *,
    scale: float,
    window: int,
) -> Tensor:
    """``[B, S, H, D]``: every head attends to visible window ``rows [B, T, D]`` and selected ``entries [B, n, D]``.

    Both compete in one softmax whose denominator also holds ``exp(sink_h)``. ``selected`` is ``[S, n]`` or
    ``[B, S, n]``; ``None`` means all entries.
    """
    batch, count, heads, size = q.shape
    keys = rows if entries is None else torch.cat((rows, entries), 1)
    scores = torch.bmm(q.flatten(1, 2), keys.transpose(1, 2)).float() * scale
    scores = scores.unflatten(1, (count, heads))
    mask = window_mask(count, rows.shape[1], window, q.device)
    if mask is not None:
        mask = mask.unsqueeze(0)
        if entries is not None:
            extra = (
                torch.ones(1, count, entries.shape[1], dtype=torch.bool, device=q.device)
                if selected is None
                else selected.view(-1, count, entries.shape[1])
            )
            mask = torch.cat((mask.expand(extra.shape[0], -1, -1), extra), 2)
        scores = scores.masked_fill(~mask.unsqueeze(2), -torch.inf)
    top = torch.maximum(scores.amax(-1, keepdim=True), sink.view(-1, 1)).detach()
    weights = (scores - top).exp()
    total = weights.sum(-1, keepdim=True) + (sink.view(-1, 1) - top).exp()
    out = torch.bmm((weights / total).to(keys.dtype).flatten(1, 2), keys)
    return out.view(batch, count, heads, size)
