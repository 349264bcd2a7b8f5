"""Forward and draft passes on a GPU, over weights and caches that stay packed in its memory.

All tokens of all pieces go through each operation together. Which piece a token belongs to, where it stands
and where its cache lies is read from device tensors (`plan`), so nothing between the embedding and the logits
waits for the device, and a decode step can be captured once and replayed (`graphs`).
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dsv4_model.cache.formats import Storage
from dsv4_model.cache.layout import CacheLayout, LayerLayout, Ring
from dsv4_model.config import AttentionKind, ConfigError, ModelConfig
from dsv4_model.kernels.gpu.attend import attend, attention_tile
from dsv4_model.kernels.gpu.compress import pool
from dsv4_model.kernels.gpu.experts import FeedForward
from dsv4_model.kernels.gpu.graphs import Graphs
from dsv4_model.kernels.gpu.index import choose, coarse_queries, encode_keys
from dsv4_model.kernels.gpu.matmul import Stack, multiply, round_activations
from dsv4_model.kernels.gpu.mixing import collapse, mix, unmix
from dsv4_model.kernels.gpu.plan import Closers, Plan, PlanData
from dsv4_model.kernels.gpu.rows import (
    Angles,
    encode_entries,
    encode_rows,
    finish_rows,
    rotate_back,
    write_ring,
)
from dsv4_model.kernels.gpu.tuning import Tuning, natural_tuning
from dsv4_model.matrix import Matrix, MatrixKind
from dsv4_model.norm import rms_normalize
from dsv4_model.passes import Piece, Rows, expert_counts
from dsv4_model.rope import rope_frequencies
from dsv4_model.weights import CompressorWeights, LayerWeights, MixingWeights, ModelWeights

__all__ = ["TritonPasses"]


@dataclass(frozen=True, slots=True)
class _Turns:
    """The angles of a pass for one table of frequencies: of its tokens, and of the blocks they close."""

    tokens: Angles
    blocks: dict[int, Angles]


class TritonPasses:
    """See `dsv4_model.passes.Passes`; the operations are Triton kernels.

    Args:
        weights: the model, on the device that computes.
        layout: of all caches that passes will be given; their pages and rings are on the same device.
        exact: multiply in fp32 throughout; else operands of matrix products (but those of router,
            compressors, hyper-connections and head) are rounded to bf16, as the released model's are.
        tuning: block sizes; None takes those for the way in which Triton runs here.
        capture: replay decode steps as CUDA graphs; None: where the device is a GPU.

    Raises:
        ConfigError: a shape that the kernels don't handle.
        TypeError: experts are streamed from disk.
    """

    def __init__(
        self,
        weights: ModelWeights,
        layout: CacheLayout,
        *,
        exact: bool = False,
        tuning: Tuning | None = None,
        capture: bool | None = None,
    ) -> None:
        c = weights.config
        _check_shape(c)
        self.weights, self.layout, self.exact = weights, layout, exact
        self.tuning = tuning or natural_tuning()
        self.device = weights.embed.data.device
        self._plain = rope_frequencies(c.qk_rope_head_dim, c.rope_theta, None).to(self.device)
        self._stretched = rope_frequencies(c.qk_rope_head_dim, c.compress_rope_theta, c.rope_scaling).to(
            self.device
        )
        embed = weights.embed
        plain = embed.kind in (MatrixKind.FP32, MatrixKind.BF16)
        self._embedding = embed.data if plain else embed.dense(torch.bfloat16)
        self._ratios = tuple(sorted({layer.ratio for layer in layout.layers} - {0}))
        tiles = {1, self.tuning.index_tokens, attention_tile(c.num_attention_heads, self.tuning)}
        self._tiles = tuple(sorted(tiles))
        self._feed_forwards = [
            FeedForward.of(layer, c, rounds=weights.rounds_activations) for layer in weights.all_layers
        ]
        self._stacks: dict[int, Stack] = {}
        self._chosen: list[Tensor] = []
        on_gpu = self.device.type == "cuda"
        self.graphs = Graphs(self) if capture or (capture is None and on_gpu) else None

    @torch.inference_mode()
    def forward(self, pieces: Items[Piece], counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `Passes.forward`."""
        expert_counts(counts, self.weights.config)
        positions = [piece.cache.position for piece in pieces]
        if self.graphs is not None and counts is None and self.graphs.serve(pieces):
            logits, streams = self.graphs.forward(pieces, positions)
            logits, streams = logits[_rows(pieces, _logits)], streams[_rows(pieces, _streams)]
        else:
            plan = Plan.of(self.describe(pieces, positions), self.device)
            streams = self.main(plan)
            self._count(counts)
            logits = self.main_logits(streams[_rows(pieces, _logits)])
            streams = streams[_rows(pieces, _streams)]
        for piece in pieces:
            piece.cache.advance(len(piece.ids))
        return logits, streams

    @torch.inference_mode()
    def draft(self, pieces: Items[Piece], streams: Tensor) -> tuple[Tensor, Tensor]:
        """See `Passes.draft`."""
        if self.weights.mtp is None:
            raise ValueError("this model has no MTP block")
        positions = [piece.cache.draft_position for piece in pieces]
        if self.graphs is not None and self.graphs.serve(pieces):
            logits, out = self.graphs.draft(pieces, positions, streams)
            logits, out = logits[_rows(pieces, _logits)], out[_rows(pieces, _streams)]
        else:
            plan = Plan.of(self.describe(pieces, positions), self.device)
            out = self.block(plan, streams)
            logits = self.draft_logits(out[_rows(pieces, _logits)])
            out = out[_rows(pieces, _streams)]
        for piece in pieces:
            piece.cache.draft_position += len(piece.ids)
        return logits, out

    def describe(self, pieces: Items[Piece], positions: Items[int], capacity: int | None = None) -> PlanData:
        """What the kernels need to know of ``pieces``. With ``capacity`` the shape is that of any decode step
        of as many pieces."""
        return PlanData.of(
            pieces, positions, self._ratios, self._tiles, capacity=capacity, always=capacity is not None
        )

    def main(self, plan: Plan) -> Tensor:
        """Final streams fp32 ``[tokens, h, d]``. Writes to caches; waits for nothing."""
        c = self.weights.config
        turns = self._turns(plan)
        embedded = self._embed(plan.ids)
        streams = embedded.unsqueeze(1).expand(-1, c.hc_mult, -1).contiguous()
        self._chosen = []
        for number in range(c.num_hidden_layers):
            streams = self._layer(number, streams, plan, turns)
        return streams

    def block(self, plan: Plan, streams: Tensor) -> Tensor:
        """The MTP block's streams of ``streams [tokens, h, d]``."""
        mtp, c = self.weights.mtp, self.weights.config
        assert mtp is not None
        embedded = rms_normalize(self._embed(plan.ids), c.rms_norm_eps) * mtp.enorm
        joined = rms_normalize(streams.float(), c.rms_norm_eps) * mtp.hnorm
        streams = self._linear(joined, mtp.h_proj) + self._linear(embedded, mtp.e_proj).unsqueeze(1)
        return self._layer(c.num_hidden_layers, streams, plan, self._turns(plan))

    def main_logits(self, streams: Tensor) -> Tensor:
        """Logits fp32 ``[n, vocab]`` of final streams ``[n, h, d]``."""
        return self._logits(streams, self.weights.head_mixing, self.weights.norm)

    def draft_logits(self, streams: Tensor) -> Tensor:
        """The same of the MTP block's streams."""
        assert self.weights.mtp is not None
        return self._logits(streams, self.weights.mtp.head_mixing, self.weights.mtp.norm)

    def _logits(self, streams: Tensor, site: MixingWeights, norm: Tensor) -> Tensor:
        c = self.weights.config
        if not len(streams):
            return streams.new_empty(0, c.vocab_size)
        x = collapse(streams.contiguous(), site, norm, c, self.tuning)
        return multiply(x, self._stack(self.weights.head), self.tuning, exact=True)

    def _layer(self, number: int, streams: Tensor, plan: Plan, turns: dict[bool, _Turns]) -> Tensor:
        c, t = self.weights.config, self.tuning
        layer, where = self.weights.all_layers[number], self.layout.layers[number]
        mixed = mix(streams, layer.attn_mixing, layer.attn_norm, c, t)
        streams = unmix(
            self._attention(mixed.x, layer, where, plan, turns[layer.ratio > 0]), streams, mixed, t
        )
        mixed = mix(streams, layer.ffn_mixing, layer.ffn_norm, c, t)
        y, chosen = self._feed_forwards[number](mixed.x, plan.ids, t, exact=self.exact)
        self._chosen.append(chosen)
        return unmix(y, streams, mixed, t)

    def _attention(
        self, x: Tensor, layer: LayerWeights, where: LayerLayout, plan: Plan, turns: _Turns
    ) -> Tensor:
        c, t = self.weights.config, self.tuning
        rounds, eps = self.weights.rounds_activations, c.rms_norm_eps
        qr = rms_normalize(self._linear(x, layer.wq_a), eps) * layer.q_norm
        q = self._linear(qr, layer.wq_b).view(len(x), c.num_attention_heads, c.head_dim)
        q = finish_rows(q, turns.tokens, eps, t)
        kv = self._linear(x, layer.wkv)
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
            exact=self._exact(layer.wq_b),
        )
        write_ring(own, where.window, plan, t)
        out = rotate_back(out, turns.tokens, t).flatten(1)
        latent = multiply(out, self._stack(layer.wo_a), t, exact=self._exact(layer.wo_a), groups=c.o_groups)
        return self._linear(latent, layer.wo_b)

    def _compress(
        self, x: Tensor, layer: LayerWeights, where: LayerLayout, plan: Plan, turns: _Turns
    ) -> None:
        """Feed the compressors; entries and keys of the blocks that close go to the pages."""
        if layer.compressor is None:
            return
        closers, eps, t = plan.closers[layer.ratio], self.weights.config.rms_norm_eps, self.tuning
        rounds = self.weights.rounds_activations
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
        t = self.tuning
        values = multiply(x, self._stack(weights.wkv), t, exact=True)
        gates = multiply(x, self._stack(weights.wgate), t, exact=True)
        gates = gates + weights.ape[plan.positions % closers.ratio]
        pooled = None
        if len(closers.tokens):
            size = weights.norm.shape[0]
            pooled = pool(values, gates, size, closers, plan, (values_ring, gates_ring))
        write_ring(values, values_ring, plan, t)
        write_ring(gates, gates_ring, plan, t)
        return pooled

    def _choose(
        self, x: Tensor, qr: Tensor, layer: LayerWeights, where: LayerLayout, plan: Plan, turns: _Turns
    ) -> Tensor | None:
        """The entries of each query, int64 ``[N, topk]``; None where all that are visible fit."""
        c, t = self.weights.config, self.tuning
        if layer.indexer is None or where.kind is not AttentionKind.CSA:
            return None
        if plan.most // layer.ratio <= c.index_topk:
            return None
        key, rounds = self.layout.key, self.weights.rounds_activations
        q = self._linear(qr, layer.indexer.wq_b).view(len(x), c.index_n_heads, c.index_head_dim)
        q = coarse_queries(
            q,
            turns.tokens,
            key,
            t,
            rotates=rounds or key.rotated,
            fp4=rounds or key.storage is Storage.FP4,
        )
        weights = multiply(x, self._stack(layer.indexer.weights_proj), t, exact=True)
        return choose(
            q,
            weights * (c.index_head_dim * c.index_n_heads) ** -0.5,
            plan,
            key,
            c.index_topk,
            t,
            offset=where.keys,
            ratio=layer.ratio,
            exact=self._exact(layer.indexer.wq_b),
        )

    def _turns(self, plan: Plan) -> dict[bool, _Turns]:
        """By whether the layer compresses. Computed once a pass, in fp32 with accurate sines."""
        return {
            stretched: _Turns(
                Angles.of(plan.positions, frequencies),
                {
                    ratio: Angles.of(closers.starts, frequencies)
                    for ratio, closers in plan.closers.items()
                    if stretched and len(closers.tokens)
                },
            )
            for stretched, frequencies in ((False, self._plain), (True, self._stretched))
        }

    def _embed(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self._embedding).float()

    def _linear(self, x: Tensor, matrix: Matrix) -> Tensor:
        """``x W^T`` for an ``x`` that the quantisation-aware training rounded."""
        if self.weights.rounds_activations:
            x = round_activations(x, self.tuning)
        return multiply(x, self._stack(matrix), self.tuning, exact=self._exact(matrix))

    def _exact(self, matrix: Matrix) -> bool:
        """Weights in fp32 are an unquantised model's: rounding its activations would be a loss."""
        return self.exact or matrix.kind is MatrixKind.FP32

    def _stack(self, matrix: Matrix) -> Stack:
        found = self._stacks.get(id(matrix))
        if found is None:
            found = self._stacks[id(matrix)] = Stack.of((matrix,))
        return found

    def _count(self, counts: Tensor | None) -> None:
        if counts is not None:
            for number, chosen in enumerate(self._chosen):
                counts[number] += chosen.flatten().cpu().bincount(minlength=counts.shape[1])


def _logits(piece: Piece) -> Rows:
    return piece.logits


def _streams(piece: Piece) -> Rows:
    return piece.streams


def _rows(pieces: Items[Piece], wanted: Callable[[Piece], Rows]) -> list[int]:
    """The rows of a pass that pieces want."""
    rows: list[int] = []
    start = 0
    for piece in pieces:
        stop = start + len(piece.ids)
        match wanted(piece):
            case Rows.LAST:
                rows.append(stop - 1)
            case Rows.ALL:
                rows.extend(range(start, stop))
        start = stop
    return rows


def _check_shape(config: ModelConfig) -> None:
    if config.hc_mult & (config.hc_mult - 1):
        raise ConfigError("hc_mult", config.hc_mult, "the GPU back end needs a power of two")
    for name, value in (("head_dim", config.head_dim), ("index_head_dim", config.index_head_dim)):
        if value % 2:
            raise ConfigError(name, value, "the GPU back end needs an even number")
