"""Attention of one layer: low-rank queries, one shared K=V head, window plus compressed entries, a sink."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dsv4_model.attention_core import sink_attention
from dsv4_model.compressor import Compressor
from dsv4_model.config import CSA_RATIO, ModelConfig
from dsv4_model.indexer import Indexer
from dsv4_model.norm import Linear, RMSNorm, rms_normalize
from dsv4_model.rope import RopeTable, rotate
from dsv4_model.state import LayerState

__all__ = ["Attention", "Span"]


class Span:
    """Positions ``start .. start + count - 1`` of one call, with the masks and angles that layers share."""

    def __init__(self, start: int, count: int, ropes: dict[int, RopeTable], device: torch.device) -> None:
        self.start = start
        self.count = count
        self.ropes = ropes
        self.device = device
        self._angles: dict[int, tuple[Tensor, Tensor]] = {}
        self._visible: dict[int, Tensor] = {}

    def rope(self, ratio: int) -> RopeTable:
        """The rotary table of layers with compression ``ratio``: one without, one shared by all with."""
        return self.ropes[min(ratio, 1)]

    def angles(self, ratio: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines ``[S, pairs]`` of the span's positions for layers with compression ``ratio``."""
        kind = min(ratio, 1)
        if kind not in self._angles:
            self._angles[kind] = self.ropes[kind].span(self.start, self.count, self.device)
        return self._angles[kind]

    def visible(self, ratio: int) -> Tensor:
        """``[S, n]``: whether compressed entry w is closed when query t is seen, ``w < (t + 1) // ratio``."""
        if ratio not in self._visible:
            entries = torch.arange((self.start + self.count) // ratio, device=self.device)
            closed = (torch.arange(self.count, device=self.device) + self.start + 1) // ratio
            self._visible[ratio] = entries < closed.unsqueeze(1)
        return self._visible[ratio]


class Attention(nn.Module):
    """The attention site of a layer with compression ``ratio`` (0: window only, 4: CSA, otherwise HCA)."""

    KV_GROUP = 64

    def __init__(self, config: ModelConfig, ratio: int, dtype: torch.dtype) -> None:
        super().__init__()
        d, heads, size = config.hidden_size, config.num_attention_heads, config.head_dim
        self.ratio = ratio
        self.heads, self.size, self.groups = heads, size, config.o_groups
        self.rotary = config.qk_rope_head_dim
        self.window = config.sliding_window
        self.topk = config.index_topk
        self.eps = config.rms_norm_eps
        self.scale = size**-0.5
        self.simulate_quantization = False
        self.attn_sink = nn.Parameter(torch.zeros(heads))
        self.wq_a = Linear(d, config.q_lora_rank, dtype, quantize_input=True)
        self.q_norm = RMSNorm(config.q_lora_rank, self.eps, dtype)
        self.wq_b = Linear(config.q_lora_rank, heads * size, dtype, quantize_input=True)
        self.wkv = Linear(d, size, dtype, quantize_input=True)
        self.kv_norm = RMSNorm(size, self.eps, dtype)
        self.wo_a = Linear(heads * size // self.groups, self.groups * config.o_lora_rank, dtype)
        self.wo_b = Linear(self.groups * config.o_lora_rank, d, dtype, quantize_input=True)
        self.compressor = Compressor(config, ratio, size, dtype) if ratio else None
        self.indexer = Indexer(config, dtype) if ratio == CSA_RATIO else None

    def forward(self, x: Tensor, span: Span, state: LayerState) -> tuple[Tensor, LayerState]:
        """Attend from normalised ``x [B, S, d]``; returns the output ``[B, S, d]`` and the new state."""
        cos, sin = span.angles(self.ratio)
        head_cos, head_sin = cos.unsqueeze(1), sin.unsqueeze(1)
        qr = self.q_norm(self.wq_a(x))
        q = rms_normalize(self.wq_b(qr).view(*x.shape[:2], self.heads, self.size), self.eps)
        q = rotate(q, head_cos, head_sin)
        kv = self._cache_rounding(rotate(self.kv_norm(self.wkv(x)), cos, sin))
        rows = kv if state.window.shape[1] == 0 else torch.cat((state.window, kv), 1)
        state = self._advance(x, span, state)
        state.window = rows[:, max(0, rows.shape[1] - (self.window - 1)) :]
        entries, visible = self._select(x, qr, span, state)
        out = sink_attention(
            q,
            rows,
            entries,
            visible,
            self.attn_sink,
            scale=self.scale,
            window=self.window,
            reach=lambda queries: (span.start + queries) // self.ratio,
        )
        return self._project(rotate(out, head_cos, head_sin, inverse=True)), state

    def _advance(self, x: Tensor, span: Span, state: LayerState) -> LayerState:
        """Feed the compressors; a shallow copy of ``state`` with entries and rows brought up to date."""
        state = state.map(lambda t: t)
        rope = span.rope(self.ratio)
        if self.compressor is not None and state.rows is not None and state.entries is not None:
            closed, state.rows = self.compressor(x, state.rows, span.start, rope)
            if closed is not None:
                state.entries = _append(state.entries, self._cache_rounding(closed))
        if self.indexer is not None and state.index_rows is not None and state.index_keys is not None:
            with torch.no_grad():
                keys, state.index_rows = self.indexer.compress(x, state.index_rows, span.start, rope)
            if keys is not None:
                state.index_keys = _append(state.index_keys, keys)
        return state

    def _select(
        self, x: Tensor, qr: Tensor, span: Span, state: LayerState
    ) -> tuple[Tensor | None, Tensor | None]:
        """Entries to attend to and who sees which: ``[S, n]``, ``[B, S, n]``, or ``None`` for all."""
        entries = state.entries
        if entries is None or entries.shape[1] == 0:
            return None, None
        if self.indexer is None or state.index_keys is None or entries.shape[1] <= self.topk:
            return entries, (None if span.count == 1 else span.visible(self.ratio))
        with torch.no_grad():
            mask = self.indexer(x, qr, state.index_keys, span.visible(self.ratio), *span.angles(self.ratio))
        if span.count > 1:
            return entries, mask
        index = mask[:, 0].nonzero()[:, 1].view(entries.shape[0], self.topk, 1)
        return entries.gather(1, index.expand(-1, -1, self.size)), None

    def _cache_rounding(self, kv: Tensor) -> Tensor:
        """FP8 round trip of the non-rotary channels, as the quantisation-aware training stored them."""
        if not self.simulate_quantization or self.size == self.rotary:
            return kv
        from dsv4_model.quantization import fp8_round_trip

        plain, rotary = kv[..., : -self.rotary], kv[..., -self.rotary :]
        return torch.cat((fp8_round_trip(plain, self.KV_GROUP), rotary), -1)

    def _project(self, out: Tensor) -> Tensor:
        """Grouped output projection of ``[B, S, H, D]``."""
        batch, count = out.shape[:2]
        grouped = out.reshape(batch * count, self.groups, -1).transpose(0, 1)
        weight = self.wo_a.weight.view(self.groups, -1, grouped.shape[-1])
        latent = torch.bmm(grouped, weight.transpose(1, 2)).transpose(0, 1)
        projected: Tensor = self.wo_b(latent.reshape(batch, count, -1))
        return projected


def _append(old: Tensor, new: Tensor) -> Tensor:
    return new if old.shape[1] == 0 else torch.cat((old, new), 1)
