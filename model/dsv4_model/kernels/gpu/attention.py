"""The attention site of a layer: projections, compressors, selection, attention, and what is cached."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dsv4_model.cache.formats import Storage
from dsv4_model.cache.layout import CacheLayout, LayerLayout, Ring
from dsv4_model.config import AttentionKind, ModelConfig
from dsv4_model.kernels.gpu.attend import attend
from dsv4_model.kernels.gpu.compress import pool
from dsv4_model.kernels.gpu.index import choose, coarse_queries, encode_keys
from dsv4_model.kernels.gpu.matmul import multiply
from dsv4_model.kernels.gpu.plan import Closers, Plan
from dsv4_model.kernels.gpu.products import Products
from dsv4_model.kernels.gpu.rows import (
    Angles,
    encode_entries,
    encode_rows,
    finish_rows,
    rotate_back,
    write_ring,
)
from dsv4_model.norm import rms_normalize
from dsv4_model.weights import CompressorWeights, LayerWeights

__all__ = ["AttentionSite", "Turns"]


@dataclass(frozen=True, slots=True)
class Turns:
    """The angles of a pass for one table of frequencies: of its tokens, and of the blocks they close."""

    tokens: Angles
    blocks: dict[int, Angles]


@dataclass(frozen=True, slots=True)
class AttentionSite:
    """The same for every layer, whose weights and place in the cache it is given."""

    config: ModelConfig
    layout: CacheLayout
    products: Products

    def __call__(
        self, x: Tensor, layer: LayerWeights, where: LayerLayout, plan: Plan, turns: Turns
    ) -> Tensor:
        """The site's output ``[tokens, d]`` of its normalised input ``x``; the cache takes the new rows."""
        c, t, p = self.config, self.products.tuning, self.products
        rounds, eps = p.rounds, c.rms_norm_eps
        qr = rms_normalize(p.linear(x, layer.wq_a), eps) * layer.q_norm
        q = p.linear(qr, layer.wq_b).view(len(x), c.num_attention_heads, c.head_dim)
        q = finish_rows(q, turns.tokens, eps, t)
        kv = p.linear(x, layer.wkv)
        own = encode_rows(kv, layer.kv_norm, turns.tokens, self.layout.rows, eps, t, rounds=rounds)
        self._compress(x, layer, where, plan, turns)
        chosen = self._choose(x, qr, layer, where, plan, turns)
        out = attend(
            q,
            own,
            chosen,
            layer.sink,
            plan,
            where,
            self.layout.rows,
            t,
            scale=c.head_dim**-0.5,
            exact=p.is_exact(layer.wq_b),
        )
        write_ring(own, where.window, plan, t)
        out = rotate_back(out, turns.tokens, t).flatten(1)
        latent = multiply(out, p.stack(layer.wo_a), t, exact=p.is_exact(layer.wo_a), groups=c.o_groups)
        return p.linear(latent, layer.wo_b)

    def _compress(self, x: Tensor, layer: LayerWeights, where: LayerLayout, plan: Plan, turns: Turns) -> None:
        """Feed the compressors; entries and keys of the blocks that close go to the pages."""
        if layer.compressor is None:
            return
        closers, eps, t = plan.closers[layer.ratio], self.config.rms_norm_eps, self.products.tuning
        rounds = self.products.rounds
        pooled = self._pool(x, layer.compressor, closers, plan, where.values, where.gates)
        if pooled is not None:
            encode_entries(
                pooled,
                layer.compressor.norm,
                closers,
                turns.blocks[layer.ratio],
                plan,
                self.layout.rows,
                eps,
                t,
                offset=where.entries,
                per_page=where.entries_per_page,
                rounds=rounds,
            )
        if layer.indexer is None:
            return
        compressor, key = layer.indexer.compressor, self.layout.key
        pooled = self._pool(x, compressor, closers, plan, where.key_values, where.key_gates)
        if pooled is not None:
            encode_keys(
                pooled,
                compressor.norm,
                closers,
                turns.blocks[layer.ratio],
                plan,
                key,
                eps,
                t,
                offset=where.keys,
                rotates=rounds or key.rotated,
                fp4=rounds or key.storage is Storage.FP4,
            )

    def _pool(
        self,
        x: Tensor,
        weights: CompressorWeights,
        closers: Closers,
        plan: Plan,
        values_ring: Ring | None,
        gates_ring: Ring | None,
    ) -> Tensor | None:
        """Pooled blocks of the candidates; the rings take the new rows. Never rounded to bf16."""
        assert values_ring is not None and gates_ring is not None
        t, p = self.products.tuning, self.products
        values = multiply(x, p.stack(weights.wkv), t, exact=True)
        gates = multiply(x, p.stack(weights.wgate), t, exact=True)
        gates = gates + weights.ape[plan.positions % closers.ratio]
        pooled = None
        if len(closers.tokens):
            size = weights.norm.shape[0]
            pooled = pool(values, gates, size, closers, plan, (values_ring, gates_ring))
        write_ring(values, values_ring, plan, t)
        write_ring(gates, gates_ring, plan, t)
        return pooled

    def _choose(
        self, x: Tensor, qr: Tensor, layer: LayerWeights, where: LayerLayout, plan: Plan, turns: Turns
    ) -> Tensor | None:
        """The entries of each query, int64 ``[N, topk]``; None where all that are visible fit."""
        c, t, p = self.config, self.products.tuning, self.products
        if layer.indexer is None or where.kind is not AttentionKind.CSA:
            return None
        if plan.most // layer.ratio <= c.index_topk:
            return None
        key, rounds = self.layout.key, p.rounds
        q = p.linear(qr, layer.indexer.wq_b).view(len(x), c.index_n_heads, c.index_head_dim)
        q = coarse_queries(
            q,
            turns.tokens,
            key,
            t,
            rotates=rounds or key.rotated,
            fp4=rounds or key.storage is Storage.FP4,
        )
        weights = multiply(x, p.stack(layer.indexer.weights_proj), t, exact=True)
        return choose(
            q,
            weights * (c.index_head_dim * c.index_n_heads) ** -0.5,
            plan,
            key,
            c.index_topk,
            t,
            offset=where.keys,
            ratio=layer.ratio,
            exact=p.is_exact(layer.indexer.wq_b),
        )
