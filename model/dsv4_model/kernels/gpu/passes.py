"""Forward and draft passes on a GPU, over weights and caches that stay packed in its memory.

All tokens of all pieces go through each operation together. Which piece a token belongs to, where it stands
and where its cache lies is read from device tensors (`plan`), so nothing between the embedding and the logits
waits for the device, and a decode step can be captured once and replayed (`graphs`).
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from dsv4_model.cache.layout import CacheLayout
from dsv4_model.config import ConfigError, ModelConfig
from dsv4_model.kernels.gpu.attend import attention_tile
from dsv4_model.kernels.gpu.attention import AttentionSite, Turns
from dsv4_model.kernels.gpu.experts import FeedForward
from dsv4_model.kernels.gpu.graphs import Graphs
from dsv4_model.kernels.gpu.host_site import HostSite
from dsv4_model.kernels.gpu.matmul import multiply
from dsv4_model.kernels.gpu.mixing import collapse, mix, unmix
from dsv4_model.kernels.gpu.plan import Plan, PlanData
from dsv4_model.kernels.gpu.products import Products
from dsv4_model.kernels.gpu.rows import Angles
from dsv4_model.kernels.gpu.tuning import Tuning, natural_tuning
from dsv4_model.matrix import Matrix, MatrixKind
from dsv4_model.norm import rms_normalize
from dsv4_model.passes import HostSites, Piece, Rows, Stage, expert_counts
from dsv4_model.placement import is_apart
from dsv4_model.rope import rope_frequencies
from dsv4_model.torch_feed_forward import TorchFeedForward
from dsv4_model.torch_linears import TorchLinears
from dsv4_model.weights import LazyExperts, MixingWeights, ModelWeights

__all__ = ["TritonPasses"]


class TritonPasses:
    """See `dsv4_model.passes.Passes` and `StagePasses`; the operations are Triton kernels.

    Args:
        weights: the whole model.
        layout: of the caches of the layers that are computed.
        stage: these layers, and the device that their weights and caches are on; None: all of them, on the
            device of ``weights``.
        exact: multiply in fp32 throughout; else operands of matrix products (but those of router,
            compressors, hyper-connections and head) are rounded to bf16, as the released model's are. Where
            activations are rounded to FP8, bf16 holds them without loss, so that this only concerns queries,
            attention probabilities and the input of ``wo_a``: 1.2 % of an attention site's output (measured
            on recorded inputs). Each such difference tips FP8 roundings further on; through a whole random
            model logits move by 0.2 of the largest, as they do when PyTorch rounds that one input to bf16.
        tuning: block sizes; None takes those for the way in which Triton runs here.
        capture: replay decode steps as CUDA graphs; None: where the device is a GPU. Never where experts
            lie elsewhere.
        host: computes feed-forward sites that are in main memory; None: PyTorch does.

    Raises:
        ConfigError: a shape that the kernels don't handle.
    """

    def __init__(
        self,
        weights: ModelWeights,
        layout: CacheLayout,
        stage: Stage | None = None,
        *,
        exact: bool = False,
        tuning: Tuning | None = None,
        capture: bool | None = None,
        host: HostSites | None = None,
    ) -> None:
        c = weights.config
        _check_shape(c)
        self.weights, self.layout, self.exact = weights, layout, exact
        self.tuning = tuning or natural_tuning()
        self.stage = stage or Stage(weights.embed.data.device, range(len(weights.all_layers)))
        self.device = self.stage.device
        self._plain = rope_frequencies(c.qk_rope_head_dim, c.rope_theta, None).to(self.device)
        self._stretched = rope_frequencies(c.qk_rope_head_dim, c.compress_rope_theta, c.rope_scaling).to(
            self.device
        )
        self._embedding = _embedding(weights.embed) if self.stage.layers.start == 0 else None
        self._ratios = tuple(sorted({layer.ratio for layer in layout.layers} - {0}))
        tiles = {1, self.tuning.index_tokens, attention_tile(c.num_attention_heads, self.tuning)}
        self._tiles = tuple(sorted(tiles))
        rounds = weights.rounds_activations
        on_host = TorchFeedForward(c, TorchLinears(rounds=rounds), expand_experts=False)
        self._feed_forwards: list[FeedForward | HostSite] = []
        for number in self.stage.layers:
            layer = weights.all_layers[number]
            if is_apart(layer, self.stage) or isinstance(layer.experts, LazyExperts):
                self._feed_forwards.append(HostSite(number, layer, on_host, host))
            else:
                self._feed_forwards.append(FeedForward.of(layer, c, rounds=rounds))
        self._products = Products(self.tuning, rounds=weights.rounds_activations, exact=exact)
        self._attention = AttentionSite(c, layout, self._products)
        self._chosen: list[Tensor | None] = []
        self._counting = False
        whole = not any(isinstance(site, HostSite) for site in self._feed_forwards)
        wanted = self.device.type == "cuda" if capture is None else capture
        self.graphs = Graphs(self) if wanted and whole else None

    @torch.inference_mode()
    def embed(self, ids: Items[int]) -> Tensor:
        """See `StagePasses.embed`."""
        with _on(self.device):
            return self._embed(torch.tensor(ids, device=self.device))

    @torch.inference_mode()
    def forward(
        self, pieces: Items[Piece], counts: Tensor | None = None, streams: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Passes.forward` and `StagePasses.forward`."""
        expert_counts(counts, self.weights.config)
        positions = [piece.cache.position for piece in pieces]
        ends = any(piece.logits is not Rows.NONE for piece in pieces)
        with _on(self.device):
            if self.graphs is not None and counts is None and self.graphs.serve(pieces):
                logits, out = self.graphs.forward(pieces, positions, streams, ends=ends)
                logits = logits[_rows(pieces, _logits)]
            else:
                plan = Plan.of(self.describe(pieces, positions), self.device)
                self._counting = counts is not None
                out = self.main(plan, streams)
                self._count(counts)
                logits = self.main_logits(out[_rows(pieces, _logits)])
            out = _wanted(out, pieces)
        for piece in pieces:
            piece.cache.advance(len(piece.ids))
        return logits, out

    @torch.inference_mode()
    def draft(
        self, pieces: Items[Piece], streams: Tensor, embedded: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Passes.draft` and `StagePasses.draft`."""
        if self.weights.mtp is None:
            raise ValueError("this model has no MTP block")
        positions = [piece.cache.draft_position for piece in pieces]
        if embedded is None:
            embedded = self.embed([token for piece in pieces for token in piece.ids])
        with _on(self.device):
            if self.graphs is not None and self.graphs.serve(pieces):
                logits, out = self.graphs.draft(pieces, positions, streams, embedded)
                logits = logits[_rows(pieces, _logits)]
            else:
                plan = Plan.of(self.describe(pieces, positions), self.device)
                out = self.block(plan, streams, embedded)
                logits = self.draft_logits(out[_rows(pieces, _logits)])
            out = _wanted(out, pieces)
        for piece in pieces:
            piece.cache.draft_position += len(piece.ids)
        return logits, out

    def describe(self, pieces: Items[Piece], positions: Items[int], capacity: int | None = None) -> PlanData:
        """What the kernels need to know of ``pieces``. With ``capacity`` the shape is that of any decode step
        of as many pieces."""
        return PlanData.of(
            pieces, positions, self._ratios, self._tiles, capacity=capacity, always=capacity is not None
        )

    def main(self, plan: Plan, streams: Tensor | None = None) -> Tensor:
        """Streams fp32 ``[tokens, h, d]`` after the stage's layers, from those before them or, None, from the
        embeddings. Writes to caches; waits for nothing."""
        c = self.weights.config
        turns = self._turns(plan)
        if streams is None:
            streams = self._embed(plan.ids).unsqueeze(1).expand(-1, c.hc_mult, -1).contiguous()
        self._chosen = []
        for number in self.stage.main(c):
            streams = self._layer(number, streams, plan, turns)
        return streams

    def block(self, plan: Plan, streams: Tensor, embedded: Tensor) -> Tensor:
        """The MTP block's streams of ``streams [tokens, h, d]`` and the next tokens' embeddings."""
        mtp, c = self.weights.mtp, self.weights.config
        assert mtp is not None
        embedded = rms_normalize(embedded, c.rms_norm_eps) * mtp.enorm
        joined = rms_normalize(streams.float(), c.rms_norm_eps) * mtp.hnorm
        streams = self._products.linear(joined, mtp.h_proj) + self._products.linear(
            embedded, mtp.e_proj
        ).unsqueeze(1)
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
        return multiply(x, self._products.stack(self.weights.head), self.tuning, exact=True)

    def _layer(self, number: int, streams: Tensor, plan: Plan, turns: dict[bool, Turns]) -> Tensor:
        c, t = self.weights.config, self.tuning
        layer, own = self.weights.all_layers[number], number - self.stage.layers.start
        where = self.layout.layers[own]
        mixed = mix(streams, layer.attn_mixing, layer.attn_norm, c, t)
        streams = unmix(
            self._attention(mixed.x, layer, where, plan, turns[layer.ratio > 0]), streams, mixed, t
        )
        mixed = mix(streams, layer.ffn_mixing, layer.ffn_norm, c, t)
        site = self._feed_forwards[own]
        if isinstance(site, HostSite):
            y, chosen = site(mixed.x, plan.ids, counted=self._counting)
        else:
            y, chosen = site(mixed.x, plan.ids, t, exact=self.exact)
        self._chosen.append(chosen)
        return unmix(y, streams, mixed, t)

    def _turns(self, plan: Plan) -> dict[bool, Turns]:
        """By whether the layer compresses. Computed once a pass, in fp32 with accurate sines."""
        return {
            stretched: Turns(
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
        assert self._embedding is not None, "only the first stage has the embedding"
        return F.embedding(ids, self._embedding).float()

    def _count(self, counts: Tensor | None) -> None:
        if counts is not None:
            for number, chosen in enumerate(self._chosen, self.stage.layers.start):
                assert chosen is not None
                counts[number] += chosen.flatten().cpu().bincount(minlength=counts.shape[1])


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Kernels are launched on the current device, whatever their tensors are on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _embedding(embed: Matrix) -> Tensor:
    plain = embed.kind in (MatrixKind.FP32, MatrixKind.BF16)
    return embed.data if plain else embed.dense(torch.bfloat16)


def _wanted(streams: Tensor, pieces: Items[Piece]) -> Tensor:
    """A copy: a graph writes over its outputs."""
    if all(piece.streams is Rows.ALL for piece in pieces):
        return streams.clone()
    return streams[_rows(pieces, _streams)]


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
