"""Softmax attention of many query heads over one shared K=V head with a sink in the denominator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["sink_attention"]

QUERY_BLOCK = 128


def sink_attention(
    q: Tensor,
    rows: Tensor,
    entries: Tensor | None,
    visible: Tensor | None,
    sink: Tensor,
    *,
    scale: float,
    window: int,
    reach: Callable[[int], int],
) -> Tensor:
    """Attend from ``q [B, S, H, D]`` to window ``rows [B, T, D]`` and compressed ``entries [B, n, D]``.

    The last S rows are the queries' own; a query sees its own and the ``window - 1`` rows before. ``visible``
    (``[S, n]`` or ``[B, S, n]``; ``None``: all) says which entries it sees, ``reach(i)`` how many at most are
    visible to the first i queries. Everything competes in one softmax whose denominator also holds
    ``exp(sink_h)``. Returns ``[B, S, H, D]``.
    """
    q = q * scale
    count = q.shape[1]
    if count == 1:
        return _single(q, rows, entries, sink)
    older = rows.shape[1] - count
    blocks = []
    for start in range(0, count, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, count)
        first = max(0, start + older - window + 1)
        near = rows[:, first : end + older]
        mask = _window_mask(start + older - first, end - start, window, near)
        keys = [near]
        if entries is not None:
            seen = reach(end)
            keys.append(entries[:, :seen])
            mask = _join(mask, visible, start, end, seen)
        blocks.append(_masked(q[:, start:end], keys, mask, sink))
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, 1)


def _single(q: Tensor, rows: Tensor, entries: Tensor | None, sink: Tensor) -> Tensor:
    """One query: the cache holds exactly what it may see."""
    keys = rows if entries is None else torch.cat((rows, entries), 1)
    batch, _, heads, size = q.shape
    scores = torch.bmm(q.view(batch, heads, size), keys.transpose(1, 2)).float()
    scores = torch.cat((scores, sink.view(1, heads, 1).expand(batch, -1, -1)), 2)
    weights = scores.softmax(2)[..., :-1].to(keys.dtype)
    return torch.bmm(weights, keys).view(batch, 1, heads, size)


def _masked(q: Tensor, parts: list[Tensor], mask: Tensor, sink: Tensor) -> Tensor:
    """A block of queries. The sink is one more key, the zero vector, whose score the bias sets.

    So that mask and sink cost one addition, and the softmax is a single fused operation.
    """
    batch, count, heads, size = q.shape
    keys = torch.cat((*parts, q.new_zeros(batch, 1, size)), 1)
    scores = torch.bmm(q.flatten(1, 2), keys.transpose(1, 2)).float()
    hidden = q.new_zeros(mask.shape, dtype=torch.float32).masked_fill_(~mask, -torch.inf)
    shape = (hidden.shape[0], count, heads, -1)
    sinks = sink.float().view(1, 1, heads, 1).expand(hidden.shape[0], count, heads, 1)
    bias = torch.cat((hidden.unsqueeze(2).expand(shape), sinks), 3)
    weights = scores.view(batch, count, heads, -1).add_(bias).softmax(3).to(keys.dtype)
    return torch.bmm(weights.flatten(1, 2), keys).view(batch, count, heads, size)


def _window_mask(older: int, count: int, window: int, like: Tensor) -> Tensor:
    """``[1, count, older + count]``: the row's age is between 0 and ``window - 1``."""
    age = torch.arange(older, older + count, device=like.device).unsqueeze(1)
    age = age - torch.arange(older + count, device=like.device)
    return ((age >= 0) & (age < window)).unsqueeze(0)


def _join(mask: Tensor, visible: Tensor | None, start: int, end: int, seen: int) -> Tensor:
    if visible is None:
        extra = mask.new_ones(1, end - start, seen)
    else:
        extra = visible[..., start:end, :seen].reshape(-1, end - start, seen)
    return torch.cat((mask.expand(extra.shape[0], -1, -1), extra), 2)
