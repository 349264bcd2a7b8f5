"""A model bound to the native library: whole passes over many sequences in one call."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence as Items
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor

from dsv4_model.cache.layout import CacheLayout, LayerLayout, Ring
from dsv4_model.cache.pages import CacheMemoryError
from dsv4_model.config import CSA_RATIO, ConfigError, ModelConfig
from dsv4_model.kernels import structures as s
from dsv4_model.kernels.library import load_library
from dsv4_model.matrix import Matrix
from dsv4_model.passes import Piece, expert_counts
from dsv4_model.rope import rope_frequencies
from dsv4_model.weights import (
    CompressorWeights,
    ExpertWeights,
    LayerWeights,
    LazyExperts,
    MixingWeights,
    ModelWeights,
)

__all__ = ["NativePasses"]

_NO_MEMORY, _EXPERTS_FAILED = 1, 3


@dataclass(slots=True)
class _Failure:
    error: BaseException | None = None


class NativePasses:
    """Forward and draft passes in C++; see `dsv4_model.passes.Passes`.

    Args:
        weights: the model; its tensors stay where they are and are read in place.
        layout: of all caches that passes will be given.
        threads: how many share the work.
        isa: ``amx``, ``avx512``, ``avx2``, ``generic``; None takes the best that the processor has.

    Raises:
        NativeUnavailableError: there is no library to be had.
        ConfigError: a shape that the library doesn't handle.
    """

    def __init__(
        self, weights: ModelWeights, layout: CacheLayout, *, threads: int, isa: str | None = None
    ) -> None:
        _check_shape(weights.config, weights.rounds_activations)
        self._library = load_library()
        self.weights, self.layout = weights, layout
        self._kept: list[object] = []
        self._failure = _Failure()
        self._lock = threading.Lock()  # scratch memory and threads serve one pass at a time
        self._model = self._bind(weights, layout)
        name = None if isa is None else isa.encode()
        self._engine = ctypes.c_void_p(self._library.dsv4_open(threads, name))
        if not self._engine:
            raise ConfigError("isa", isa, "this processor doesn't have it")

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)
        if engine:
            self._library.dsv4_close(engine)

    def forward(self, pieces: Items[Piece], counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `Passes.forward`."""
        chunks, ids = self._chunks(pieces, draft=False)
        logits, streams = self._outputs(pieces)
        expert_counts(counts, self.weights.config)
        with self._lock:
            status = self._library.dsv4_forward(
                self._engine,
                ctypes.byref(self._model),
                chunks,
                len(pieces),
                _address(logits),
                _address(streams),
                None if counts is None else counts.data_ptr(),
            )
        del ids
        self._check(status)
        for piece in pieces:
            piece.cache.advance(len(piece.ids))
        return logits, streams

    def draft(self, pieces: Items[Piece], streams: Tensor) -> tuple[Tensor, Tensor]:
        """See `Passes.draft`."""
        chunks, ids = self._chunks(pieces, draft=True)
        logits, out = self._outputs(pieces)
        streams = streams.contiguous()
        with self._lock:
            status = self._library.dsv4_draft(
                self._engine,
                ctypes.byref(self._model),
                chunks,
                len(pieces),
                streams.data_ptr(),
                _address(logits),
                _address(out),
            )
        del ids
        self._check(status)
        for piece in pieces:
            piece.cache.draft_position += len(piece.ids)
        return logits, out

    def feed_forward(self, number: int, x: Tensor, ids: Tensor) -> Tensor:
        """The feed-forward site of layer ``number`` alone; see `HostSites`."""
        x, tokens = x.float().contiguous(), ids.to(torch.int32).contiguous()
        y = torch.empty_like(x)
        with self._lock:
            status = self._library.dsv4_moe(
                self._engine,
                ctypes.byref(self._model),
                ctypes.byref(self._model.layer[number]),
                x.data_ptr(),
                tokens.data_ptr(),
                len(x),
                y.data_ptr(),
            )
        self._check(status)
        return y

    def _chunks(
        self, pieces: Items[Piece], *, draft: bool
    ) -> tuple[ctypes.Array[s.Chunk], list[ctypes.Array[ctypes.c_int32]]]:
        chunks = (s.Chunk * len(pieces))()
        kept = []
        for chunk, piece in zip(chunks, pieces, strict=True):
            cache = piece.cache
            ids = (ctypes.c_int32 * len(piece.ids))(*piece.ids)
            kept.append(ids)
            chunk.rings = cache.rings.data_ptr()
            chunk.pages = cache.table_address
            chunk.ids = ctypes.addressof(ids)
            chunk.position = cache.draft_position if draft else cache.position
            chunk.count = len(ids)
            chunk.logits = piece.logits
            chunk.streams = piece.streams
        return chunks, kept

    def _outputs(self, pieces: Items[Piece]) -> tuple[Tensor, Tensor]:
        c = self.weights.config
        logits = torch.empty(sum(piece.rows(piece.logits) for piece in pieces), c.vocab_size)
        streams = torch.empty(sum(piece.rows(piece.streams) for piece in pieces), c.hc_mult, c.hidden_size)
        return logits, streams

    def _check(self, status: int) -> None:
        if status == _NO_MEMORY:
            raise CacheMemoryError(0)
        if status == _EXPERTS_FAILED and self._failure.error is not None:
            error, self._failure.error = self._failure.error, None
            raise error
        if status:
            raise RuntimeError(f"the native back end failed with status {status}")

    def _bind(self, weights: ModelWeights, layout: CacheLayout) -> s.Model:
        c = weights.config
        model = s.Model(
            vocab=c.vocab_size,
            hidden=c.hidden_size,
            layers=c.num_hidden_layers,
            heads=c.num_attention_heads,
            head_dim=c.head_dim,
            rotary=c.qk_rope_head_dim,
            q_lora=c.q_lora_rank,
            groups=c.o_groups,
            o_lora=c.o_lora_rank,
            inner=c.moe_intermediate_size,
            experts=c.n_routed_experts,
            chosen=c.num_experts_per_tok,
            window=c.sliding_window,
            index_heads=c.index_n_heads,
            index_dim=c.index_head_dim,
            index_topk=c.index_topk,
            streams=c.hc_mult,
            sinkhorn=c.hc_sinkhorn_iters,
            row_storage=int(layout.rows.storage),
            key_storage=int(layout.key.storage),
            row_bytes=layout.rows.nbytes,
            row_groups=layout.rows.groups,
            rounds=int(weights.rounds_activations),
            has_mtp=int(weights.mtp is not None),
            eps=c.rms_norm_eps,
            hc_eps=c.hc_eps,
            route_scale=c.routed_scaling_factor,
            limit=c.swiglu_limit,
            frequencies_plain=self._floats(rope_frequencies(c.qk_rope_head_dim, c.rope_theta, None)),
            frequencies_compressed=self._floats(
                rope_frequencies(c.qk_rope_head_dim, c.compress_rope_theta, c.rope_scaling)
            ),
            embed=self._matrix(weights.embed),
            head=self._matrix(weights.head),
            norm=self._floats(weights.norm),
            head_mixing=self._mixing(weights.head_mixing),
        )
        parts = zip(count(), weights.all_layers, layout.layers, strict=False)
        layers = [self._layer(number, layer, where) for number, layer, where in parts]
        array = (s.Layer * len(layers))(*layers)
        self._kept.append(array)
        model.layer = ctypes.cast(array, ctypes.POINTER(s.Layer))
        if weights.mtp is not None:
            model.e_proj = self._matrix(weights.mtp.e_proj)
            model.h_proj = self._matrix(weights.mtp.h_proj)
            model.enorm = self._floats(weights.mtp.enorm)
            model.hnorm = self._floats(weights.mtp.hnorm)
            model.mtp_norm = self._floats(weights.mtp.norm)
            model.mtp_mixing = self._mixing(weights.mtp.head_mixing)
        model.resolve = self._resolver(weights)
        return model

    def _layer(self, number: int, layer: LayerWeights, where: LayerLayout) -> s.Layer:
        bound = s.Layer(
            ratio=layer.ratio,
            entries_per_page=where.entries_per_page,
            slots=0 if where.values is None else where.values.slots,
            number=number,
            window=where.window.offset,
            values=_offset(where.values),
            gates=_offset(where.gates),
            key_values=_offset(where.key_values),
            key_gates=_offset(where.key_gates),
            entries=where.entries,
            keys=where.keys,
            attn_norm=self._floats(layer.attn_norm),
            ffn_norm=self._floats(layer.ffn_norm),
            sink=self._floats(layer.sink),
            q_norm=self._floats(layer.q_norm),
            kv_norm=self._floats(layer.kv_norm),
            attn_mixing=self._mixing(layer.attn_mixing),
            ffn_mixing=self._mixing(layer.ffn_mixing),
            wq_a=self._matrix(layer.wq_a),
            wq_b=self._matrix(layer.wq_b),
            wkv=self._matrix(layer.wkv),
            wo_a=self._matrix(layer.wo_a),
            wo_b=self._matrix(layer.wo_b),
            gate=self._matrix(layer.gate),
            shared=(s.Matrix * 3)(*map(self._matrix, layer.shared.matrices)),
        )
        if layer.compressor is not None:
            bound.compressor = self._compressor(layer.compressor)
        if layer.indexer is not None:
            bound.indexer_wq_b = self._matrix(layer.indexer.wq_b)
            bound.indexer_weights = self._matrix(layer.indexer.weights_proj)
            bound.indexer_compressor = self._compressor(layer.indexer.compressor)
        if layer.gate_bias is not None:
            bound.gate_bias = self._floats(layer.gate_bias)
        if layer.tid2eid is not None:
            self._kept.append(layer.tid2eid)
            bound.tid2eid = layer.tid2eid.data_ptr()
        if isinstance(layer.experts, tuple):
            every = [self._matrix(matrix) for expert in layer.experts for matrix in expert.matrices]
            array = (s.Matrix * len(every))(*every)
            self._kept.append(array)
            bound.experts = ctypes.addressof(array)
        return bound

    def _resolver(self, weights: ModelWeights) -> Any:
        """Bring experts that are not all in memory; what is brought stays until the next call."""
        brought: list[ExpertWeights] = []
        layers = weights.all_layers

        def resolve(
            _: int, number: int, wanted: ctypes._Pointer[ctypes.c_int32], count: int, out: Any
        ) -> int:
            brought.clear()  # its place may be needed
            try:
                lazy = layers[number].experts
                assert isinstance(lazy, LazyExperts)
                brought.extend(lazy.several([wanted[i] for i in range(count)]))
                for i, expert in enumerate(brought):
                    for j, matrix in enumerate(expert.matrices):
                        out[3 * i + j] = _matrix(matrix)
                following = layers[(number + 1) % len(layers)].experts
                if isinstance(following, LazyExperts):
                    following.announce_likely()
            except BaseException as error:  # it must not be lost in the C++ frames between
                self._failure.error = error
                return 1
            return 0

        return s.Resolve(resolve)

    def _floats(self, tensor: Tensor) -> int:
        tensor = tensor.float().contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()

    def _matrix(self, matrix: Matrix) -> s.Matrix:
        self._kept.append(matrix)
        return _matrix(matrix)

    def _mixing(self, mixing: MixingWeights) -> s.Mixing:
        return s.Mixing(self._floats(mixing.fn), self._floats(mixing.base), self._floats(mixing.scale))

    def _compressor(self, compressor: CompressorWeights) -> s.Compressor:
        return s.Compressor(
            self._matrix(compressor.wkv),
            self._matrix(compressor.wgate),
            self._floats(compressor.ape),
            self._floats(compressor.norm),
        )


def _matrix(matrix: Matrix) -> s.Matrix:
    scale = matrix.scale
    return s.Matrix(
        matrix.data.data_ptr(),
        None if scale is None else scale.data_ptr(),
        int(matrix.kind),
        matrix.rows,
        matrix.columns,
        0 if scale is None else scale.shape[1],
    )


def _offset(ring: Ring | None) -> int:
    return -1 if ring is None else ring.offset


def _address(tensor: Tensor) -> int | None:
    return tensor.data_ptr() if tensor.numel() else None


def _check_shape(config: ModelConfig, rounds: bool) -> None:
    """Fixed-size buffers of the library, and groups that it doesn't pad."""
    limits = (
        ("head_dim", config.head_dim, 1024),
        ("index_head_dim", config.index_head_dim, 1024),
        ("qk_rope_head_dim", config.qk_rope_head_dim, 512),
        ("hc_mult", config.hc_mult, 8),
    )
    for name, value, most in limits:
        if value > most:
            raise ConfigError(name, value, f"the native back end takes at most {most}; set DSV4_NATIVE=0")
    csa = CSA_RATIO in config.compress_ratios[: config.num_hidden_layers]
    if rounds and csa and config.index_head_dim % 32:
        raise ConfigError(
            "index_head_dim", config.index_head_dim, "must be a multiple of 32 to be rounded to FP4"
        )
