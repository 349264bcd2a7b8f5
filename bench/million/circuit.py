"""Where the training starts: weights that already look a key up, as `dsv4_model.nano.initialise` can copy.

Layer 0 (window) marks every token with the two before it, and with whether ``=`` or ``?`` stood one, two or
three tokens before. Layer 1 (CSA) brings the key in front of the latest ``?`` to the tokens after it. Layer 3
(CSA) compresses a fact into an entry [first word, second word | first, second, third value], because each
group of channels pools the token that carries its mark; three heads look for the key, each at its own step of
the answer, and write their value to be read by the head. The indexer of layer 3 compares a digest of both
words in the slowest rotary channels, which a million positions hardly turn.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from dsv4_model.rope import rope_frequencies
from dsv4_model.transformer import Block, DeepseekV4

from .task import Task

KEY, VALUE, DISTANCE = 24, 26, 5
_VALUE_AT = KEY
_EQUALS_AT = KEY + VALUE
_QUESTION_AT = _EQUALS_AT + 1
_PREVIOUS_AT = _QUESTION_AT + 1
_BEFORE_AT = _PREVIOUS_AT + KEY + 2
_THIRD_AT = _BEFORE_AT + KEY + 2
_ASKED_AT = _THIRD_AT + 2
_COPY_AT = _ASKED_AT + 2 * KEY
_FREE_AT = _COPY_AT + VALUE
_CONSTANT = 255

_SHIFT_SHAPE = (1.0, 1.0, 1.0, 0.8, 0.6, 0.5, 0.4, 0.3)
_RECENT_PAIRS = range(4, 9)
_DIGEST_PAIRS = range(25, 31)
_FACT_CHANNEL = 62
SPAN = 1 << 20


@torch.no_grad()
def initialise(model: DeepseekV4, task: Task, seed: int = 0) -> None:
    """Overwrite the random weights of ``model`` in place; deterministic for a seed."""
    generator = torch.Generator().manual_seed(seed)
    model.reset_parameters(generator)
    _tables(model, task, generator)
    layers = [block for block in model.layers if isinstance(block, Block)]
    for number, block in enumerate(layers):
        block.attn.wo_b.weight.mul_(0.1)
        for expert in (*block.ffn.experts, block.ffn.shared_experts):
            expert.w2.weight.mul_(0.1)
        if number != 2:
            block.attn.wo_b.weight[:_FREE_AT] = 0
    _previous_tokens(layers[0])
    _asked_key(layers[1])
    _look_up(layers[3])
    _digest(layers[3], generator)


def _codes(count: int, bits: int, rng: np.random.Generator) -> Tensor:
    """Words of +-1 that differ in at least `DISTANCE` places."""
    found = np.empty((count, bits))
    have = 0
    while have < count:
        word = rng.choice([-1.0, 1.0], bits)
        if have == 0 or (found[:have] @ word).max() <= bits - 2 * DISTANCE:
            found[have] = word
            have += 1
    return torch.from_numpy(found).float()


def _tables(model: DeepseekV4, task: Task, generator: torch.Generator) -> None:
    rng = np.random.default_rng(11)
    vocabulary, d = model.embed.weight.shape
    keys = torch.from_numpy(rng.choice([-1.0, 1.0], (vocabulary, KEY))).float()
    values = torch.from_numpy(rng.choice([-1.0, 1.0], (vocabulary, VALUE))).float()
    keys[task.words] = _codes(len(task.words), KEY, rng)
    values[task.words] = _codes(len(task.words), VALUE, rng)
    embed = 0.02 * torch.randn(vocabulary, d, generator=generator)
    embed[:, :KEY] = keys
    embed[:, _VALUE_AT : _VALUE_AT + VALUE] = values
    embed[:, _EQUALS_AT:_FREE_AT] = 0
    embed[task.equals, _EQUALS_AT] = 4.0
    embed[task.question, _QUESTION_AT] = 4.0
    embed[:, _CONSTANT] = 4.0
    model.embed.weight.copy_(embed)
    head = 0.02 * torch.randn(vocabulary, d, generator=generator)
    head[:, _COPY_AT : _COPY_AT + VALUE] += 0.5 * values
    model.head.weight.copy_(head)


def _previous_tokens(block: Block) -> None:
    """Heads 0, 1 and 2 fetch key code and marks of one, two and three tokens before."""
    attention = block.attn
    size, rotary = attention.size, attention.rotary
    plain, pairs = size - rotary, len(_SHIFT_SHAPE)
    energy = torch.tensor(_SHIFT_SHAPE)
    wkv = attention.wkv.weight
    wkv.zero_()
    wkv[:KEY, :KEY] = torch.eye(KEY)
    wkv[KEY, _EQUALS_AT] = wkv[KEY + 1, _QUESTION_AT] = 1.0
    wkv[plain : plain + 2 * pairs : 2, _CONSTANT] = energy
    attention.kv_norm.weight[:plain] = 1.0
    attention.kv_norm.weight[plain:] = 4.0
    attention.wq_a.weight[0] = 0
    attention.wq_a.weight[0, _CONSTANT] = 8.0
    frequencies = rope_frequencies(rotary, 10000.0, None)[:pairs]
    wq_b = attention.wq_b.weight.view(attention.heads, size, -1)
    wq_b *= 0.02
    for head in range(3):
        # Rotating by -shift makes the query at t look like a key at t - shift.
        shift = head + 1
        wq_b[head, plain : plain + 2 * pairs : 2, 0] = energy * torch.cos(frequencies * shift)
        wq_b[head, plain + 1 : plain + 1 + 2 * pairs : 2, 0] = -energy * torch.sin(frequencies * shift)
    rank = attention.wo_a.weight.shape[0] // attention.groups
    wo_a, wo_b = attention.wo_a.weight, attention.wo_b.weight
    for head, target, first, count in (
        (0, _PREVIOUS_AT, 0, KEY + 2),
        (1, _BEFORE_AT, 0, KEY + 2),
        (2, _THIRD_AT, KEY, 2),
    ):
        row = rank * (head // 2) + 32 * (head % 2)
        column = size * (head % 2) + first
        wo_a[row : row + count] = 0
        wo_a[row : row + count, column : column + count] = torch.eye(count)
        wo_b[:, row : row + count] = 0
        wo_b[target : target + count, row : row + count] = 0.7 * torch.eye(count)


def _asked_key(block: Block) -> None:
    """Head 0 fetches the key from the latest ``?``; nothing else is near enough to its query."""
    attention = block.attn
    size, rotary = attention.size, attention.rotary
    plain = size - rotary
    mark, constant = plain - 2, plain - 1
    pairs = [plain + 2 * i for i in _RECENT_PAIRS]
    wkv = attention.wkv.weight
    wkv.zero_()
    wkv[:KEY, _BEFORE_AT : _BEFORE_AT + KEY] = torch.eye(KEY)
    wkv[KEY : 2 * KEY, _PREVIOUS_AT : _PREVIOUS_AT + KEY] = torch.eye(KEY)
    wkv[mark, _QUESTION_AT] = 2.0
    wkv[constant, _CONSTANT] = 0.5
    wkv[pairs, _CONSTANT] = 0.6
    attention.kv_norm.weight.fill_(1.0)
    attention.kv_norm.weight[2 * KEY :] = 3.0
    assert attention.compressor is not None
    attention.compressor.wkv.weight.mul_(0.3)
    attention.compressor.wkv.weight[[constant, size + constant]] = 0
    attention.compressor.wkv.weight[[constant, size + constant], _CONSTANT] = -2.0
    attention.wq_a.weight[0] = 0
    attention.wq_a.weight[0, _CONSTANT] = 8.0
    wq_b = attention.wq_b.weight.view(attention.heads, size, -1)
    wq_b *= 0.02
    wq_b[0, mark, 0] = 1.0
    wq_b[:, constant, 0] = 0.7
    wq_b[0, pairs, 0] = 0.5
    attention.attn_sink.fill_(12.0)
    wo_a, wo_b = attention.wo_a.weight, attention.wo_b.weight
    wo_a[: 2 * KEY] = 0
    wo_a[: 2 * KEY, : 2 * KEY] = torch.eye(2 * KEY)
    wo_b[:, : 2 * KEY] = 0
    wo_b[_ASKED_AT : _ASKED_AT + 2 * KEY, : 2 * KEY] = torch.eye(2 * KEY)


def _look_up(block: Block) -> None:
    """Entries hold key and values; heads 0, 1 and 2 read one value each at their step of the answer."""
    attention = block.attn
    size = attention.size
    constant = size - attention.rotary - 1
    compressor = attention.compressor
    assert compressor is not None
    wkv = compressor.wkv.weight.view(2, size, -1)
    gate = compressor.wgate.weight.view(2, size, -1)
    wkv.zero_()
    gate.mul_(0.1)
    identity = torch.eye(KEY), torch.eye(VALUE)
    # Only where the equals sign is in the older half of an entry do all three values lie in the entry too.
    wkv[0, :KEY, _BEFORE_AT : _BEFORE_AT + KEY] = identity[0]
    wkv[0, KEY : 2 * KEY, _PREVIOUS_AT : _PREVIOUS_AT + KEY] = identity[0]
    gate[0, : 2 * KEY, _EQUALS_AT] = 2.0
    marks = (_PREVIOUS_AT + KEY, _BEFORE_AT + KEY, _THIRD_AT)
    for step, mark in enumerate(marks):
        low = 2 * KEY + step * VALUE
        wkv[:, low : low + VALUE, _VALUE_AT : _VALUE_AT + VALUE] = identity[1]
        gate[:, low : low + VALUE, mark] = 2.0
    wkv[:, constant, _CONSTANT] = 2.0
    compressor.norm.weight.fill_(1.0)
    compressor.norm.weight[: 2 * KEY] = 4.0
    compressor.norm.weight[constant] = 3.0
    attention.wkv.weight.mul_(0.3)
    attention.wkv.weight[: constant + 1] = 0
    wq_a = attention.wq_a.weight
    wq_a[: 2 * KEY + 4] = 0
    wq_a[: 2 * KEY, _ASKED_AT : _ASKED_AT + 2 * KEY] = torch.eye(2 * KEY)
    steps = (_QUESTION_AT, _PREVIOUS_AT + KEY + 1, _BEFORE_AT + KEY + 1)
    for row, channel in enumerate((*steps, _CONSTANT), 2 * KEY):
        wq_a[row, channel] = 1.0
    wq_b = attention.wq_b.weight.view(attention.heads, size, -1)
    wq_b *= 0.02
    for head in range(3):
        wq_b[head, : 2 * KEY, : 2 * KEY] += torch.eye(2 * KEY)
        wq_b[head, constant, 2 * KEY + 3] = -2.0
        wq_b[head, constant, 2 * KEY + head] = 2.0
    wq_b[3, constant, 2 * KEY + 3] = -1.0
    attention.attn_sink.fill_(14.0)
    rank = attention.wo_a.weight.shape[0] // attention.groups
    wo_a, wo_b = attention.wo_a.weight, attention.wo_b.weight
    for head in range(3):
        row = rank * (head // 2) + 32 * (head % 2)
        column = size * (head % 2) + 2 * KEY + head * VALUE
        wo_a[row : row + VALUE] = 0
        wo_a[row : row + VALUE, column : column + VALUE] = identity[1]
        wo_b[:, row : row + VALUE] = 0
        wo_b[_COPY_AT : _COPY_AT + VALUE, row : row + VALUE] = 1.5 * identity[1]


def _digest(block: Block, generator: torch.Generator) -> None:
    """Index keys and queries: a projection of both words, each head expecting another distance."""
    attention = block.attn
    indexer = attention.indexer
    assert indexer is not None
    size, heads = indexer.size, indexer.heads
    low, high = 2 * _DIGEST_PAIRS.start, 2 * _DIGEST_PAIRS.stop
    width = high - low
    projection = torch.randn(2 * KEY, 2 * KEY, generator=generator)
    digest = torch.linalg.qr(projection).Q[:width] * math.sqrt(2 * KEY / width)
    wkv = indexer.compressor.wkv.weight.view(2, size, -1)
    gate = indexer.compressor.wgate.weight.view(2, size, -1)
    wkv.mul_(0.02)
    gate.mul_(0.1)
    wkv[:, low:] = 0
    wkv[0, low:high, _BEFORE_AT : _BEFORE_AT + KEY] = digest[:, :KEY]
    wkv[0, low:high, _PREVIOUS_AT : _PREVIOUS_AT + KEY] = digest[:, KEY:]
    wkv[0, _FACT_CHANNEL, _EQUALS_AT] = 1.0
    wkv[:, _FACT_CHANNEL + 1, _CONSTANT] = 1.0
    gate[0, low : _FACT_CHANNEL + 1, _EQUALS_AT] = 2.0
    indexer.compressor.norm.weight.fill_(1.0)
    wq_b = indexer.wq_b.weight.view(heads, size, -1)
    wq_b *= 0.02
    c = block.config
    frequencies = rope_frequencies(c.qk_rope_head_dim, c.compress_rope_theta, c.rope_scaling)
    wanted = torch.zeros(size - low, wq_b.shape[2])
    wanted[:width, : 2 * KEY] = digest
    wanted[width, 2 * KEY + 3] = 0.15
    # Below this part of a full match a head gives nothing: most entries score zero.
    wanted[width + 1, 2 * KEY + 3] = -0.8
    for head in range(heads):
        # Closer together at both ends, where a distance has neighbours on one side only.
        distance = 0.5 * SPAN * (1 - math.cos(math.pi * (head + 0.5) / heads))
        angle = frequencies[low // 2 :] * distance
        cos, sin = angle.cos().unsqueeze(1), angle.sin().unsqueeze(1)
        # The query at t, turned back by the distance, lies on a key that is so far away.
        wq_b[head, low::2] = wanted[0::2] * cos + wanted[1::2] * sin
        wq_b[head, low + 1 :: 2] = wanted[1::2] * cos - wanted[0::2] * sin
    indexer.weights_proj.weight.mul_(0.02)
    indexer.weights_proj.weight[:, _CONSTANT] = 1.0
