"""Initial weights of V4-Nano that can already copy.

Copying an identifier from the request into a tool call is what a small model learns last. The circuit that
does it is known (an *induction head*: one layer marks every position with the identity of the token before
it, the next looks for the position whose mark equals the current token and repeats what stands there), so the
first two layers start as that circuit, in the spirit of mimetic initialisation, instead of as noise.
Everything stays trainable, and everything else is learned.

The residual of width d is laid out as

    [0, IDENTITY)                identity of the token (the embedding)
    [IDENTITY, +PREVIOUS)        identity of the token before (written by layer 0)
    [.., +BEFORE)                identity of the token before that (written by layer 0)
    [.., +COPY)                  token to be repeated (written by layer 1, read by the head)
    d - 1                        a constant

Shared K=V heads make this possible in one layer: part of a row is the key, another part the value.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dsv4_model.transformer import Block, DeepseekV4

IDENTITY, PREVIOUS, BEFORE, COPY = 80, 64, 40, 56

_PREVIOUS_AT = IDENTITY
_BEFORE_AT = _PREVIOUS_AT + PREVIOUS
_COPY_AT = _BEFORE_AT + BEFORE

_SHIFT_SHAPE = (1.0, 1.0, 1.0, 0.8, 0.6, 0.5, 0.4, 0.3)
"""Energy by rotary frequency of the keys that tell one position from the next; high frequencies first."""

_RECENT_PAIRS = range(5, 11)
"""Rotary pairs whose sum of cosines is a bump some twenty tokens wide: what was just said stands out."""
_RECENT_HEADS = {1: (2,), 2: (2, 3), 3: (2, 3)}
"""Layer -> heads that start by averaging what was just said; the request is read through them first."""


@torch.no_grad()
def initialise(model: DeepseekV4, seed: int = 0) -> None:
    """Overwrite `model`'s random weights in place; deterministic for a seed."""
    generator = torch.Generator().manual_seed(seed)
    model.reset_parameters(generator)
    config = model.config
    d = config.hidden_size

    def orthogonal(rows: int, columns: int) -> Tensor:
        square = torch.randn(max(rows, columns), max(rows, columns), generator=generator)
        basis: Tensor = torch.linalg.qr(square).Q
        return basis[:rows, :columns]

    identities = torch.randn(config.vocab_size, IDENTITY, generator=generator)
    identities = identities / identities.norm(dim=1, keepdim=True) * math.sqrt(IDENTITY)
    embed = 0.02 * torch.randn(config.vocab_size, d, generator=generator)
    embed[:, :IDENTITY] += identities
    embed[:, -1] = 4.0
    model.embed.weight.copy_(embed)

    first, second = model.layers[0], model.layers[1]
    assert isinstance(first, Block) and isinstance(second, Block)
    to_previous = orthogonal(PREVIOUS, IDENTITY)
    to_before = orthogonal(BEFORE, IDENTITY)
    _previous_token_heads(first, to_previous, to_before)
    to_copy = orthogonal(COPY, IDENTITY)
    match_previous = orthogonal(44, PREVIOUS)
    match_before = orthogonal(28, BEFORE)
    _induction_heads(second, to_previous, to_before, to_copy, match_previous, match_before)

    for layer, heads in _RECENT_HEADS.items():
        block = model.layers[layer]
        assert isinstance(block, Block)
        _recent_heads(
            block, heads, latent=match_previous.shape[0] + match_before.shape[0] if layer == 1 else 0
        )

    head = 0.02 * torch.randn(config.vocab_size, d, generator=generator)
    head[:, _COPY_AT : _COPY_AT + COPY] += 0.25 * identities @ to_copy.T
    model.head.weight.copy_(head)


def _previous_token_heads(block: Block, to_previous: Tensor, to_before: Tensor) -> None:
    """Head 0 of layer 0 fetches the identity of the token before, head 1 that of the one before it."""
    attention = block.attn
    size, rotary = attention.size, attention.rotary
    plain = size - rotary
    constant = attention.wq_a.weight.shape[1] - 1
    energy = torch.tensor(_SHIFT_SHAPE)
    wkv = attention.wkv.weight
    wkv.mul_(0.1)
    wkv[:IDENTITY, :] = 0
    wkv[:IDENTITY, :IDENTITY] = torch.eye(IDENTITY)
    wkv[plain:, :] = 0
    wkv[plain : plain + 2 * len(energy) : 2, constant] = energy
    attention.kv_norm.weight[:plain] = 1.0
    attention.kv_norm.weight[plain:] = 4.0
    wq_a = attention.wq_a.weight
    wq_a[0] = 0
    wq_a[0, constant] = 8.0
    frequencies = _frequencies(10000.0, rotary)[: len(energy)]
    wq_b = attention.wq_b.weight.view(attention.heads, size, -1)
    for head, shift in ((0, 1), (1, 2)):
        wq_b[head] *= 0.02
        # Rotating by -shift makes the query at t look like a key at t - shift.
        wq_b[head, plain : plain + 2 * len(energy) : 2, 0] = energy * torch.cos(frequencies * shift)
        wq_b[head, plain + 1 : plain + 1 + 2 * len(energy) : 2, 0] = -energy * torch.sin(frequencies * shift)
    # Both heads are in output group 0: its first rows carry the mark of head 0, the next that of head 1.
    rank = attention.wo_a.weight.shape[0] // attention.groups
    wo_a = attention.wo_a.weight
    assert rank >= PREVIOUS + BEFORE
    wo_a[:rank] = 0
    wo_a[:PREVIOUS, :IDENTITY] = to_previous
    wo_a[PREVIOUS : PREVIOUS + BEFORE, size : size + IDENTITY] = to_before
    wo_b = attention.wo_b.weight
    wo_b[:, :rank] = 0
    wo_b[_PREVIOUS_AT : _PREVIOUS_AT + PREVIOUS, :PREVIOUS] = torch.eye(PREVIOUS)
    wo_b[_BEFORE_AT : _BEFORE_AT + BEFORE, PREVIOUS : PREVIOUS + BEFORE] = torch.eye(BEFORE)


def _induction_heads(
    block: Block,
    to_previous: Tensor,
    to_before: Tensor,
    to_copy: Tensor,
    match_previous: Tensor,
    match_before: Tensor,
) -> None:
    """Heads 0 and 1 of layer 1 look for the last two tokens (0: mostly the last) and write what followed."""
    attention = block.attn
    size, rotary = attention.size, attention.rotary
    plain = size - rotary
    p, b = match_previous.shape[0], match_before.shape[0]
    wkv = attention.wkv.weight
    wkv.mul_(0.1)
    wkv[:plain] = 0
    wkv[:p, _PREVIOUS_AT : _PREVIOUS_AT + PREVIOUS] = match_previous
    wkv[p : p + b, _BEFORE_AT : _BEFORE_AT + BEFORE] = match_before
    wkv[p + b : p + b + COPY, :IDENTITY] = 0.8 * to_copy
    assert p + b + COPY <= plain
    attention.kv_norm.weight.fill_(1.0)
    attention.kv_norm.weight[: p + b] = 3.0
    # The query latent has to carry both identities: p + b of its rows do nothing else.
    wq_a = attention.wq_a.weight
    wq_a.mul_(0.5)
    wq_a[: p + b] = 0
    wq_a[:p, :IDENTITY] = match_previous @ to_previous
    wq_a[p : p + b, _PREVIOUS_AT : _PREVIOUS_AT + PREVIOUS] = match_before @ to_before @ to_previous.T
    wq_b = attention.wq_b.weight.view(attention.heads, size, -1)
    for head, weight in ((0, 0.35), (1, 1.0)):
        wq_b[head] *= 0.02
        wq_b[head, :p, :p] += torch.eye(p)
        wq_b[head, p : p + b, p : p + b] += weight * torch.eye(b)
    rank = attention.wo_a.weight.shape[0] // attention.groups
    wo_a = attention.wo_a.weight
    assert rank >= 2 * COPY
    wo_a[:rank] = 0
    wo_a[:COPY, p + b : p + b + COPY] = torch.eye(COPY)
    wo_a[COPY : 2 * COPY, size + p + b : size + p + b + COPY] = torch.eye(COPY)
    wo_b = attention.wo_b.weight
    wo_b[:, :rank] = 0
    for i in range(2):
        wo_b[_COPY_AT : _COPY_AT + COPY, i * COPY : (i + 1) * COPY] = torch.eye(COPY)


def _recent_heads(block: Block, heads: tuple[int, ...], latent: int) -> None:
    """Make `heads` prefer near positions, whatever stands there, through row `latent` of the query latent."""
    attention = block.attn
    size, rotary = attention.size, attention.rotary
    plain = size - rotary
    constant = attention.wq_a.weight.shape[1] - 1
    pairs = [plain + 2 * i for i in _RECENT_PAIRS]
    wkv = attention.wkv.weight
    wkv[plain:] *= 0.3
    wkv[pairs, constant] = 0.7
    attention.wq_a.weight[latent] = 0
    attention.wq_a.weight[latent, constant] = 6.0
    wq_b = attention.wq_b.weight.view(attention.heads, size, -1)
    wq_b[:, :, latent] = 0
    for head in heads:
        wq_b[head] *= 0.3
        wq_b[head, pairs, latent] = 0.5


def _frequencies(theta: float, rotary: int) -> Tensor:
    return theta ** (-torch.arange(0, rotary, 2) / rotary)
