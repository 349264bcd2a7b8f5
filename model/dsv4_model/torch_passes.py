"""Forward and draft passes in plain PyTorch over the paged cache: the readable reference, on any device.

The native back end does the same in one call; this one serves where no compiler is, and proves the other.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from dsv4_model import hyper_connections as hc
from dsv4_model.attention_core import sink_attention
from dsv4_model.cache.entries import PieceCache
from dsv4_model.cache.layout import CacheLayout, LayerLayout, Ring
from dsv4_model.config import AttentionKind
from dsv4_model.indexer import top_k_mask
from dsv4_model.norm import rms_normalize
from dsv4_model.passes import HostSites, Piece, Rows, Stage, expert_counts
from dsv4_model.placement import is_apart
from dsv4_model.quantization import fp4_round_trip, fp8_round_trip, hadamard
from dsv4_model.rope import rope_frequencies, rotate
from dsv4_model.torch_feed_forward import TorchFeedForward
from dsv4_model.torch_linears import TorchLinears
from dsv4_model.weights import CompressorWeights, LayerWeights, MixingWeights, ModelWeights

__all__ = ["TorchPasses"]

_KV_GROUP = 64
_EXPAND_UP_TO = 1 << 30  # bytes of fp32 experts that are kept expanded


def _reach(position: int, ratio: int, queries: int) -> int:
    return (position + queries) // ratio


@dataclass(frozen=True, slots=True)
class _Span:
    """One piece among all tokens of a pass: rows ``start .. stop - 1``; its first position; its cache."""

    start: int
    stop: int
    position: int
    cache: PieceCache

    @property
    def count(self) -> int:
        return self.stop - self.start


class TorchPasses:
    """See `dsv4_model.passes.Passes` and `StagePasses`. Computes in fp32.

    Args:
        weights: the whole model.
        layout: of the caches of the layers that are computed.
        stage: these layers, and the device that their weights and caches are on; None: all of them, on the
            device of ``weights``.
        host: computes feed-forward sites that are in main memory while this is not; None: PyTorch does.
    """

    def __init__(
        self,
        weights: ModelWeights,
        layout: CacheLayout,
        stage: Stage | None = None,
        host: HostSites | None = None,
    ) -> None:
        self.weights, self.layout = weights, layout
        c = weights.config
        self.stage = stage or Stage(weights.embed.data.device, range(len(weights.all_layers)))
        self.device, self._host = self.stage.device, host
        self._frequencies = (
            rope_frequencies(c.qk_rope_head_dim, c.rope_theta, None).to(self.device),
            rope_frequencies(c.qk_rope_head_dim, c.compress_rope_theta, c.rope_scaling).to(self.device),
        )
        self._linears = TorchLinears(rounds=weights.rounds_activations)
        experts = 12 * c.n_routed_experts * c.hidden_size * c.moe_intermediate_size * len(self.stage.layers)
        # Streamed experts come and go, but what is kept expanded is known by its matrix's identity.
        stay = all(isinstance(weights.all_layers[n].experts, tuple) for n in self.stage.layers)
        self._feed_forward = TorchFeedForward(
            c, self._linears, expand_experts=stay and experts <= _EXPAND_UP_TO
        )

    @torch.inference_mode()
    def embed(self, ids: Items[int]) -> Tensor:
        """See `StagePasses.embed`."""
        return self._embed(torch.tensor(ids, device=self.device))

    @torch.inference_mode()
    def forward(
        self, pieces: Items[Piece], counts: Tensor | None = None, streams: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Passes.forward` and `StagePasses.forward`."""
        c = self.weights.config
        expert_counts(counts, c)
        spans = self._spans(pieces, [piece.cache.position for piece in pieces])
        ids = self._ids(pieces)
        if streams is None:
            streams = self._embed(ids).unsqueeze(1).repeat(1, c.hc_mult, 1)
        for number in self.stage.main(c):
            streams = self._layer(number, streams, ids, spans, counts)
        w = self.weights
        outputs = self._outputs(pieces, spans, streams, w.head_mixing, w.norm)
        for piece, span in zip(pieces, spans, strict=True):
            span.cache.commit()
            piece.cache.advance(span.count)
        return outputs

    @torch.inference_mode()
    def draft(
        self, pieces: Items[Piece], streams: Tensor, embedded: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Passes.draft` and `StagePasses.draft`."""
        c, mtp = self.weights.config, self.weights.mtp
        if mtp is None:
            raise ValueError("this model has no MTP block")
        spans = self._spans(pieces, [piece.cache.draft_position for piece in pieces])
        ids = self._ids(pieces)
        if embedded is None:
            embedded = self._embed(ids)
        embedded = self._norm(embedded, mtp.enorm)
        joined = self._linears(embedded, mtp.e_proj, rounds=True).unsqueeze(1) + self._linears(
            self._norm(streams, mtp.hnorm), mtp.h_proj, rounds=True
        )
        out = self._layer(c.num_hidden_layers, joined, ids, spans, None)
        outputs = self._outputs(pieces, spans, out, mtp.head_mixing, mtp.norm)
        for piece, span in zip(pieces, spans, strict=True):
            span.cache.commit()
            piece.cache.draft_position += span.count
        return outputs

    def _spans(self, pieces: Items[Piece], positions: list[int]) -> list[_Span]:
        spans, start = [], 0
        for piece, position in zip(pieces, positions, strict=True):
            stop = start + len(piece.ids)
            spans.append(_Span(start, stop, position, PieceCache(piece.cache)))
            start = stop
        return spans

    def _ids(self, pieces: Items[Piece]) -> Tensor:
        return torch.tensor([token for piece in pieces for token in piece.ids], device=self.device)

    def _embed(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self._linears.expanded(self.weights.embed))

    def _outputs(
        self, pieces: Items[Piece], spans: list[_Span], streams: Tensor, site: MixingWeights, norm: Tensor
    ) -> tuple[Tensor, Tensor]:
        c = self.weights.config

        def rows(wanted: Callable[[Piece], Rows]) -> Tensor:
            chosen: list[int] = []
            for piece, span in zip(pieces, spans, strict=True):
                match wanted(piece):
                    case Rows.LAST:
                        chosen.append(span.stop - 1)
                    case Rows.ALL:
                        chosen.extend(range(span.start, span.stop))
            return torch.tensor(chosen, dtype=torch.long, device=self.device)

        wanted = streams[rows(lambda piece: piece.streams)]
        if all(piece.logits is Rows.NONE for piece in pieces):
            return streams.new_empty(0, c.vocab_size), wanted
        last = streams[rows(lambda piece: piece.logits)]
        x = hc.collapse(last, site.fn, site.base, site.scale, eps=c.hc_eps, norm_eps=c.rms_norm_eps)
        logits = self._linears(self._norm(x, norm), self.weights.head)
        return logits, wanted

    def _layer(
        self, number: int, streams: Tensor, ids: Tensor, spans: list[_Span], counts: Tensor | None
    ) -> Tensor:
        layer = self.weights.all_layers[number]
        where = self.layout.layers[number - self.stage.layers.start]
        maps = self._mixing(streams, layer.attn_mixing)
        x = self._norm(hc.pre(streams, maps.pre), layer.attn_norm)
        streams = hc.post(self._attention(x, layer, where, spans), streams, maps)
        maps = self._mixing(streams, layer.ffn_mixing)
        x = self._norm(hc.pre(streams, maps.pre), layer.ffn_norm)
        if self._host is not None and counts is None and is_apart(layer, self.stage):
            y = self._host.feed_forward(number, x.cpu(), ids.cpu()).to(self.device)
        else:
            y = self._feed_forward(x, ids, layer, None if counts is None else counts[number])
        return hc.post(y, streams, maps)

    def _mixing(self, streams: Tensor, site: MixingWeights) -> hc.Mixing:
        c = self.weights.config
        return hc.mixing(
            streams,
            site.fn,
            site.base,
            site.scale,
            iterations=c.hc_sinkhorn_iters,
            eps=c.hc_eps,
            norm_eps=c.rms_norm_eps,
        )

    def _attention(self, x: Tensor, layer: LayerWeights, where: LayerLayout, spans: list[_Span]) -> Tensor:
        c, rows = self.weights.config, self.layout.rows
        positions = torch.cat(
            [torch.arange(s.position, s.position + s.count, device=self.device) for s in spans]
        )
        cos, sin = self._angles(positions, layer.ratio)
        qr = self._norm(self._linears(x, layer.wq_a, rounds=True), layer.q_norm)
        q = self._linears(qr, layer.wq_b, rounds=True).view(len(x), c.num_attention_heads, c.head_dim)
        q = rotate(rms_normalize(q, c.rms_norm_eps), cos.unsqueeze(1), sin.unsqueeze(1))
        kv = rotate(self._norm(self._linears(x, layer.wkv, rounds=True), layer.kv_norm), cos, sin)
        stored = rows.encode(self._cache_rounding(kv))
        own = rows.decode(stored)
        parts = []
        for span in spans:
            mine = slice(span.start, span.stop)
            self._compress(x[mine], layer, where, span)
            entries, visible = self._select(x[mine], qr[mine], (cos[mine], sin[mine]), layer, where, span)
            near = torch.cat((span.cache.window(where, span.position), own[mine]))
            parts.append(
                sink_attention(
                    q[mine].unsqueeze(0),
                    near.unsqueeze(0),
                    None if entries is None else entries.unsqueeze(0),
                    visible,
                    layer.sink,
                    scale=c.head_dim**-0.5,
                    window=c.sliding_window,
                    reach=partial(_reach, span.position, max(layer.ratio, 1)),
                )[0]
            )
            span.cache.write_ring(where.window, span.position, stored[mine])
        out = rotate(torch.cat(parts), cos.unsqueeze(1), sin.unsqueeze(1), inverse=True)
        grouped = out.reshape(len(x), c.o_groups, -1).transpose(0, 1)
        weight = self._linears.expanded(layer.wo_a).view(c.o_groups, c.o_lora_rank, -1)
        latent = torch.bmm(grouped, weight.transpose(1, 2)).transpose(0, 1).reshape(len(x), -1)
        return self._linears(latent, layer.wo_b, rounds=True)

    def _compress(self, x: Tensor, layer: LayerWeights, where: LayerLayout, span: _Span) -> None:
        """Feed the compressors; entries and keys of the blocks that close go to the pages."""
        if layer.compressor is None:
            return
        first = span.position // layer.ratio
        entries = self._pool(x, layer.compressor, layer.ratio, span, where.values, where.gates)
        if entries is not None:
            span.cache.write_entries(where, first, self._cache_rounding(entries))
        if layer.indexer is not None:
            compressor = layer.indexer.compressor
            keys = self._pool(x, compressor, layer.ratio, span, where.key_values, where.key_gates)
            if keys is not None:
                span.cache.write_keys(where, first, self._coarse(keys))

    def _pool(
        self,
        x: Tensor,
        weights: CompressorWeights,
        ratio: int,
        span: _Span,
        values_ring: Ring | None,
        gates_ring: Ring | None,
    ) -> Tensor | None:
        """Entries ``[closed, size]`` of the blocks that tokens ``x`` close; the rings take the new rows."""
        assert values_ring is not None and gates_ring is not None
        size, start, count = weights.norm.shape[0], span.position, len(x)
        overlap = weights.ape.shape[1] > size
        phases = torch.arange(start, start + count, device=self.device) % ratio
        values = self._linears(x, weights.wkv)
        gates = self._linears(x, weights.wgate) + weights.ape[phases]
        first, last = start // ratio, (start + count) // ratio
        low = (first - 1 if overlap else first) * ratio
        old_values = span.cache.floats(values_ring, max(low, 0), start)
        old_gates = span.cache.floats(gates_ring, max(low, 0), start)
        if low < 0:  # there is no block before the first
            old_values = torch.cat((old_values.new_zeros(ratio, old_values.shape[1]), old_values))
            old_gates = torch.cat((old_gates.new_full((ratio, old_gates.shape[1]), -torch.inf), old_gates))
        span.cache.write_floats(values_ring, start, values)
        span.cache.write_floats(gates_ring, start, gates)
        if last == first:
            return None
        blocks = last - first + overlap
        value = torch.cat((old_values, values))[: blocks * ratio].view(blocks, ratio, -1)
        gate = torch.cat((old_gates, gates))[: blocks * ratio].view(blocks, ratio, -1)
        if overlap:
            value = torch.cat((value[:-1, :, :size], value[1:, :, size:]), 1)
            gate = torch.cat((gate[:-1, :, :size], gate[1:, :, size:]), 1)
        pooled = (gate.softmax(1) * value).sum(1)
        positions = torch.arange(first, last, device=self.device) * ratio
        return rotate(self._norm(pooled, weights.norm), *self._angles(positions, ratio))

    def _select(
        self,
        x: Tensor,
        qr: Tensor,
        angles: tuple[Tensor, Tensor],
        layer: LayerWeights,
        where: LayerLayout,
        span: _Span,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Entries to attend to ``[n, D]`` and who sees which ``[S, n]`` (None: all see all)."""
        c = self.weights.config
        total = (span.position + span.count) // layer.ratio if layer.ratio else 0
        if total == 0:
            return None, None
        closed = (torch.arange(span.count, device=self.device) + span.position + 1) // layer.ratio
        visible = torch.arange(total, device=self.device) < closed.unsqueeze(1)
        if layer.indexer is None or where.kind is not AttentionKind.CSA or total <= c.index_topk:
            return span.cache.entries(where, total), visible
        q = self._linears(qr, layer.indexer.wq_b, rounds=True)
        q = rotate(q.view(len(x), c.index_n_heads, -1), *(part.unsqueeze(1) for part in angles))
        q = self._coarse(q)
        weights = self._linears(x, layer.indexer.weights_proj) * (c.index_head_dim * c.index_n_heads) ** -0.5
        keys = span.cache.keys(where, total)
        products = torch.matmul(q.flatten(0, 1), keys.t()).relu().view(*q.shape[:2], -1)
        chosen = top_k_mask(torch.einsum("sh,shn->sn", weights, products), visible, c.index_topk)
        if span.count > 1:
            return span.cache.entries(where, total), chosen
        return span.cache.chosen_entries(where, chosen[0].nonzero()[:, 0]), None

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return rms_normalize(x, self.weights.config.rms_norm_eps) * weight

    def _angles(self, positions: Tensor, ratio: int) -> tuple[Tensor, Tensor]:
        angles = positions.float().unsqueeze(1) * self._frequencies[min(ratio, 1)]
        return angles.cos(), angles.sin()

    def _cache_rounding(self, kv: Tensor) -> Tensor:
        if not self.weights.rounds_activations:
            return kv
        rotary = self.layout.rows.rotary
        return torch.cat((fp8_round_trip(kv[..., :-rotary], _KV_GROUP), kv[..., -rotary:]), -1)

    def _coarse(self, x: Tensor) -> Tensor:
        """Index queries and keys as they are scored: Hadamard, and FP4 where the training had it."""
        key = self.layout.key
        if self.weights.rounds_activations or key.rotated:
            x = hadamard(x)
        if self.weights.rounds_activations or key.storage.name == "FP4":
            x = fp4_round_trip(x)
        return x
