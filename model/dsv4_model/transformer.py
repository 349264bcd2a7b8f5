"""DeepSeek-V4: embedding, hyper-connected layers, head; incremental from any position."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor, nn

from dsv4_model import hyper_connections as hc
from dsv4_model.attention import Attention, Span
from dsv4_model.config import ModelConfig
from dsv4_model.indexer import Indexer
from dsv4_model.initialization import initialize
from dsv4_model.moe import MoE
from dsv4_model.norm import Linear, RMSNorm, linear_fp32
from dsv4_model.rope import RopeTable
from dsv4_model.state import LayerState, State, empty_layer

__all__ = ["Block", "DeepseekV4", "Embedding", "MtpBlock"]


class Embedding(nn.Module):
    """Token table ``[vocab, d]``."""

    def __init__(self, vocab: int, size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab, size, dtype=dtype))

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(ids, self.weight)


class Block(nn.Module):
    """One layer: an attention site and a feed-forward site, each between a stream mix-down and mix-up."""

    def __init__(self, config: ModelConfig, ratio: int, dtype: torch.dtype, *, hashed: bool) -> None:
        super().__init__()
        self.config = config
        self.attn = Attention(config, ratio, dtype)
        self.ffn = MoE(config, dtype, hashed=hashed)
        self.attn_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.ffn_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        h = config.hc_mult
        maps, width = (2 + h) * h, h * config.hidden_size
        self.hc_attn_fn = nn.Parameter(torch.zeros(maps, width))
        self.hc_attn_base = nn.Parameter(torch.zeros(maps))
        self.hc_attn_scale = nn.Parameter(torch.ones(3))
        self.hc_ffn_fn = nn.Parameter(torch.zeros(maps, width))
        self.hc_ffn_base = nn.Parameter(torch.zeros(maps))
        self.hc_ffn_scale = nn.Parameter(torch.ones(3))

    def forward(
        self, streams: Tensor, ids: Tensor, span: Span, state: LayerState
    ) -> tuple[Tensor, LayerState]:
        """``streams [B, S, h, d]`` and token ids ``[B, S]`` to new streams and the layer's new state."""
        shape = streams.shape
        flat = streams.flatten(0, 1)
        maps = self._mixing(flat, self.hc_attn_fn, self.hc_attn_base, self.hc_attn_scale)
        x = self.attn_norm(hc.pre(flat, maps.pre)).view(shape[0], shape[1], shape[3])
        y, state = self.attn(x, span, state)
        flat = hc.post(y.flatten(0, 1), flat, maps)
        maps = self._mixing(flat, self.hc_ffn_fn, self.hc_ffn_base, self.hc_ffn_scale)
        x = self.ffn_norm(hc.pre(flat, maps.pre)).view(shape[0], shape[1], shape[3])
        y = self.ffn(x, ids)
        return hc.post(y.flatten(0, 1), flat, maps).view(shape), state

    def _mixing(self, streams: Tensor, fn: Tensor, base: Tensor, scale: Tensor) -> hc.Mixing:
        c = self.config
        return hc.mixing(
            streams, fn, base, scale, iterations=c.hc_sinkhorn_iters, eps=c.hc_eps, norm_eps=c.rms_norm_eps
        )


class MtpBlock(Block):
    """Multi-token prediction: joins the streams at t with the embedding of token t + 1; one layer."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__(config, 0, dtype, hashed=False)
        d, h, eps = config.hidden_size, config.hc_mult, config.rms_norm_eps
        self.e_proj = Linear(d, d, dtype, quantize_input=True)
        self.h_proj = Linear(d, d, dtype, quantize_input=True)
        self.enorm = RMSNorm(d, eps, dtype)
        self.hnorm = RMSNorm(d, eps, dtype)
        self.norm = RMSNorm(d, eps, dtype)
        self.hc_head_fn = nn.Parameter(torch.zeros(h, h * d))
        self.hc_head_base = nn.Parameter(torch.zeros(h))
        self.hc_head_scale = nn.Parameter(torch.ones(1))

    def join(self, streams: Tensor, embedded: Tensor) -> Tensor:
        """Input streams from main streams ``[B, S, h, d]`` and next-token embeddings ``[B, S, d]``."""
        joined: Tensor = self.e_proj(self.enorm(embedded)).unsqueeze(2) + self.h_proj(self.hnorm(streams))
        return joined


class DeepseekV4(nn.Module):
    """The whole model under official parameter names.

    ``dtype`` is that of streams and large matrices; hyper-connections, sinks, position biases and routing
    biases stay fp32. Parameters are initialised by `reset_parameters`, or left to a checkpoint on the
    meta device.
    """

    def __init__(
        self, config: ModelConfig, *, dtype: torch.dtype = torch.float32, with_mtp: bool = True
    ) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        d, h = config.hidden_size, config.hc_mult
        self.embed = Embedding(config.vocab_size, d, dtype)
        self.layers = nn.ModuleList(
            Block(config, config.ratio(i), dtype, hashed=config.is_hash_routed(i))
            for i in range(config.num_hidden_layers)
        )
        stages = config.num_nextn_predict_layers if with_mtp and not config.has_dspark else 0
        self.mtp = nn.ModuleList(MtpBlock(config, dtype) for _ in range(stages))
        self.norm = RMSNorm(d, config.rms_norm_eps, dtype)
        self.head = Linear(d, config.vocab_size, dtype)
        self.hc_head_fn = nn.Parameter(torch.zeros(h, h * d))
        self.hc_head_base = nn.Parameter(torch.zeros(h))
        self.hc_head_scale = nn.Parameter(torch.ones(1))
        self._ropes = {kind: RopeTable.for_ratio(config, kind) for kind in (0, 1)}
        if not self.embed.weight.is_meta:
            self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Random weights that suit a small model; see `initialize`."""
        initialize(self, self.config, generator)

    @property
    def simulate_quantization(self) -> bool:
        """Whether activations and cache entries take the FP8/FP4 round trips of the training."""
        return any(getattr(module, "simulate_quantization", False) for module in self.layers.modules())

    @simulate_quantization.setter
    def simulate_quantization(self, on: bool) -> None:
        for module in (*self.layers.modules(), *self.mtp.modules()):
            if isinstance(module, Linear | Attention | Indexer):
                module.simulate_quantization = on

    def new_state(self, batch: int = 1) -> State:
        """The state of ``batch`` sequences that hold no token yet."""
        device = self.embed.weight.device

        def empty(ratio: int) -> LayerState:
            return empty_layer(self.config, ratio, batch, self.dtype, device)

        ratios = self.config.compress_ratios[: self.config.num_hidden_layers]
        return State([empty(ratio) for ratio in ratios], [empty(0) for _ in self.mtp])

    @overload
    def forward(
        self, ids: Tensor, state: State, *, return_streams: Literal[False] = False, last_only: bool = False
    ) -> Tensor: ...

    @overload
    def forward(
        self, ids: Tensor, state: State, *, return_streams: Literal[True], last_only: bool = False
    ) -> tuple[Tensor, Tensor]: ...

    def forward(
        self, ids: Tensor, state: State, *, return_streams: bool = False, last_only: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (fp32) ``[B, S, vocab]``, with ``last_only`` ``[B, 1, vocab]``, of the next chunk.

        ``ids [B, S]`` follow the ``state.position`` tokens that ``state`` holds; the state is advanced. With
        ``return_streams`` the final streams ``[B, S, h, d]`` come too, which `draft` takes.
        """
        if ids.ndim != 2 or ids.shape[1] == 0 or ids.shape[0] != state.batch:
            raise ValueError(f"ids must be [{state.batch}, S >= 1] to match the state, not {list(ids.shape)}")
        embedded = self.embed(ids)
        streams = embedded.unsqueeze(2).repeat(1, 1, self.config.hc_mult, 1)
        span = Span(state.position, ids.shape[1], self._ropes, ids.device)
        layers: list[LayerState] = []
        for block, layer in zip(self.layers, state.layers, strict=True):
            streams, layer = block(streams, ids, span, layer)
            layers.append(layer)
        state.layers = layers
        state.position += ids.shape[1]
        logits = self._logits(streams[:, -1:] if last_only else streams, self, self.norm)
        return (logits, streams) if return_streams else logits

    def draft(
        self, streams: Tensor, next_ids: Tensor, state: State, *, last_only: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Run the MTP block: logits of the token after ``next_ids`` and the block's own output streams.

        ``streams [B, S, h, d]`` are final streams of the main model (or of this block, to draft further) at
        positions ``state.mtp_position ...``; ``next_ids [B, S]`` the tokens one later. Advances the draft
        state only.
        """
        if not self.mtp:
            raise ValueError("this model was built without an MTP block; build it with with_mtp=True")
        block = self.mtp[0]
        assert isinstance(block, MtpBlock)
        span = Span(state.mtp_position, next_ids.shape[1], self._ropes, next_ids.device)
        joined = block.join(streams, self.embed(next_ids))
        out, layer = block(joined, next_ids, span, state.mtp[0])
        state.mtp = [layer, *state.mtp[1:]]
        state.mtp_position += next_ids.shape[1]
        return self._logits(out[:, -1:] if last_only else out, block, block.norm), out

    def _logits(self, streams: Tensor, owner: DeepseekV4 | MtpBlock, norm: RMSNorm) -> Tensor:
        c = self.config
        x = hc.collapse(
            streams.flatten(0, 1),
            owner.hc_head_fn,
            owner.hc_head_base,
            owner.hc_head_scale,
            eps=c.hc_eps,
            norm_eps=c.rms_norm_eps,
        )
        return linear_fp32(norm(x), self.head.weight).view(*streams.shape[:2], -1)
