"""DeepSeek-V4 token by token in plain loops: slow, written from the formulas, and unlike the engine in shape.

It keeps the whole history of hidden states and recomputes every compressed entry from it at each step: it
shares neither state handling nor vectorisation nor masks with what it checks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from dsv4_model.config import ModelConfig

Weights = Mapping[str, Tensor]


def reference_logits(config: ModelConfig, weights: Weights, ids: list[int]) -> Tensor:
    """Logits ``[S, vocab]`` of one sequence."""
    w = {name: value if name.endswith("tid2eid") else value.double() for name, value in weights.items()}
    history: list[list[Tensor]] = [[] for _ in range(config.num_hidden_layers)]
    rows = []
    for t, token in enumerate(ids):
        streams = w["embed.weight"][token].repeat(config.hc_mult, 1)
        for n in range(config.num_hidden_layers):
            site = f"layers.{n}"
            pre, post, comb = maps(config, streams, w, f"{site}.hc_attn")
            x = rms(pre @ streams, config.rms_norm_eps) * w[f"{site}.attn_norm.weight"]
            history[n].append(x)
            y = attend(config, w, n, history[n], t)
            streams = post[:, None] * y + comb.T @ streams
            pre, post, comb = maps(config, streams, w, f"{site}.hc_ffn")
            x = rms(pre @ streams, config.rms_norm_eps) * w[f"{site}.ffn_norm.weight"]
            y = feed_forward(config, w, n, x, token)
            streams = post[:, None] * y + comb.T @ streams
        flat = streams.flatten()
        mixed = w["hc_head_fn"] @ flat / torch.sqrt(flat.square().mean() + config.rms_norm_eps)
        gate = torch.sigmoid(mixed * w["hc_head_scale"] + w["hc_head_base"]) + config.hc_eps
        rows.append(w["head.weight"] @ (rms(gate @ streams, config.rms_norm_eps) * w["norm.weight"]))
    return torch.stack(rows).float()


def rms(x: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps)


def maps(config: ModelConfig, streams: Tensor, w: Weights, name: str) -> tuple[Tensor, Tensor, Tensor]:
    h, eps = config.hc_mult, config.hc_eps
    flat = streams.flatten()
    m = w[f"{name}_fn"] @ flat / torch.sqrt(flat.square().mean() + config.rms_norm_eps)
    scale, base = w[f"{name}_scale"], w[f"{name}_base"]
    pre = torch.sigmoid(m[:h] * scale[0] + base[:h]) + eps
    post = 2 * torch.sigmoid(m[h : 2 * h] * scale[1] + base[h : 2 * h])
    c = (m[2 * h :] * scale[2] + base[2 * h :]).view(h, h)
    c = c.softmax(1) + eps
    c = c / (c.sum(0, keepdim=True) + eps)
    for _ in range(config.hc_sinkhorn_iters - 1):
        c = c / (c.sum(1, keepdim=True) + eps)
        c = c / (c.sum(0, keepdim=True) + eps)
    return pre, post, c


def frequencies(config: ModelConfig, ratio: int) -> list[float]:
    dim = config.qk_rope_head_dim
    theta = config.compress_rope_theta if ratio else config.rope_theta
    base = [theta ** (-2 * i / dim) for i in range(dim // 2)]
    yarn = config.rope_scaling
    if not ratio or yarn is None:
        return base

    def turn(r: float) -> float:
        return (
            dim * math.log(yarn.original_max_position_embeddings / (2 * math.pi * r)) / (2 * math.log(theta))
        )

    low, high = max(math.floor(turn(yarn.beta_fast)), 0), min(math.ceil(turn(yarn.beta_slow)), dim - 1)
    ramps = [min(max((i - low) / (high - low), 0), 1) for i in range(dim // 2)]
    return [f * (1 - u) + f / yarn.factor * u for f, u in zip(base, ramps, strict=True)]


def turned(config: ModelConfig, ratio: int, x: Tensor, position: int) -> Tensor:
    """Rotate the last channels of ``x [..., D]`` as complex numbers."""
    dim = config.qk_rope_head_dim
    angles = torch.tensor([position * f for f in frequencies(config, ratio)], dtype=torch.float64)
    tail = torch.view_as_complex(x[..., -dim:].reshape(*x.shape[:-1], -1, 2).contiguous())
    tail = tail * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((x[..., :-dim], torch.view_as_real(tail).flatten(-2)), -1)


def compressed(
    config: ModelConfig, w: Weights, name: str, ratio: int, history: list[Tensor], block: int, size: int
) -> Tensor:
    """Entry ``block`` from the hidden states of its tokens."""
    values, gates = [], []
    for part, lo in ((block - 1, 0), (block, size)) if ratio == 4 else ((block, 0),):
        for i in range(ratio):
            if part < 0:
                continue
            x = history[part * ratio + i]
            values.append((w[f"{name}.wkv.weight"] @ x)[lo : lo + size])
            gates.append((w[f"{name}.wgate.weight"] @ x + w[f"{name}.ape"][i])[lo : lo + size])
    pooled = (torch.stack(gates).softmax(0) * torch.stack(values)).sum(0)
    entry = rms(pooled, config.rms_norm_eps) * w[f"{name}.norm.weight"]
    return turned(config, ratio, entry, ratio * block)


def attend(config: ModelConfig, w: Weights, n: int, history: list[Tensor], t: int) -> Tensor:
    name, ratio, eps = f"layers.{n}.attn", config.compress_ratios[n], config.rms_norm_eps
    heads, size = config.num_attention_heads, config.head_dim
    x = history[t]
    latent = rms(w[f"{name}.wq_a.weight"] @ x, eps) * w[f"{name}.q_norm.weight"]
    q = turned(config, ratio, rms((w[f"{name}.wq_b.weight"] @ latent).view(heads, size), eps), t)
    seen = []
    for j in range(max(0, t - config.sliding_window + 1), t + 1):
        row = rms(w[f"{name}.wkv.weight"] @ history[j], eps) * w[f"{name}.kv_norm.weight"]
        seen.append(turned(config, ratio, row, j))
    if ratio:
        for block in chosen_blocks(config, w, n, history, t, latent):
            seen.append(compressed(config, w, f"{name}.compressor", ratio, history, block, size))
    keys = torch.stack(seen)
    weights = (q @ keys.T * size**-0.5).exp()
    weights = weights / (weights.sum(1, keepdim=True) + w[f"{name}.attn_sink"].exp()[:, None])
    out = turned(config, ratio, weights @ keys, -t).view(config.o_groups, -1)
    wo_a = w[f"{name}.wo_a.weight"].view(config.o_groups, -1, out.shape[1])
    return w[f"{name}.wo_b.weight"] @ torch.cat([a @ o for a, o in zip(wo_a, out, strict=True)])


def chosen_blocks(
    config: ModelConfig, w: Weights, n: int, history: list[Tensor], t: int, latent: Tensor
) -> list[int]:
    ratio = config.compress_ratios[n]
    visible = range((t + 1) // ratio)
    if ratio != 4:
        return list(visible)
    name, heads, size = f"layers.{n}.attn.indexer", config.index_n_heads, config.index_head_dim
    q = turned(config, ratio, (w[f"{name}.wq_b.weight"] @ latent).view(heads, size), t)
    a = w[f"{name}.weights_proj.weight"] @ history[t] * size**-0.5 * heads**-0.5
    scores = {}
    for block in visible:
        key = compressed(config, w, f"{name}.compressor", ratio, history, block, size)
        scores[block] = float((a * (q @ key).relu()).sum().detach())
    return sorted(visible, key=lambda b: (-scores[b], b))[: config.index_topk]


def feed_forward(config: ModelConfig, w: Weights, n: int, x: Tensor, token: int) -> Tensor:
    name, limit = f"layers.{n}.ffn", config.swiglu_limit

    def expert(which: str) -> Tensor:
        a = (w[f"{which}.w1.weight"] @ x).clamp(max=limit)
        b = (w[f"{which}.w3.weight"] @ x).clamp(-limit, limit)
        return w[f"{which}.w2.weight"] @ (a * torch.sigmoid(a) * b)

    scores = torch.sqrt(torch.log1p((w[f"{name}.gate.weight"] @ x).exp()))
    if config.is_hash_routed(n):
        chosen = w[f"{name}.gate.tid2eid"][token].tolist()
    else:
        biased = scores + w[f"{name}.gate.bias"]
        chosen = biased.argsort(descending=True)[: config.num_experts_per_tok].tolist()
    total = scores[chosen].sum()
    out = expert(f"{name}.shared_experts")
    for e in chosen:
        out = out + scores[e] / total * config.routed_scaling_factor * expert(f"{name}.experts.{e}")
    return out
