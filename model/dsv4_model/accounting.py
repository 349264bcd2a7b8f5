"""What a DeepSeek-V4 costs, by arithmetic over its configuration alone: KV bytes, weight bytes, FLOPs.

Nothing here needs PyTorch or a checkpoint. Bytes are exact; GB means 10^9. The sources are the released
tensor shapes, the cache layouts of the released kernels, and the technical report's comparisons, all of which
the tests reproduce.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import Final

from dsv4_model.config import CSA_RATIO, AttentionKind, ModelConfig
from dsv4_model.weight_accounting import (
    Component,
    Parameters,
    expert_bytes,
    parameters,
    tensor_count,
    weight_bytes,
    weight_bytes_per_token,
)

__all__ = [
    "V32_BYTES_PER_TOKEN",
    "CacheFormat",
    "Component",
    "Flops",
    "KvBytes",
    "Parameters",
    "bytes_per_token",
    "expert_bytes",
    "flops_per_token",
    "flops_per_token_v32",
    "gqa8_bytes_per_token",
    "index_key_bytes",
    "kv_bytes",
    "main_entry_bytes",
    "parameters",
    "prefill_flops",
    "restart_point_bytes",
    "tensor_count",
    "weight_bytes",
    "weight_bytes_per_token",
]


class CacheFormat(StrEnum):
    """How cache entries are held: main entries, then index keys where those differ."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP8 = "fp8"
    FP8_FP4 = "fp8+fp4"


# --- KV cache ---------------------------------------------------------------------------------------------

_FP8_GROUP: Final = 64  # channels of a cache row that share a scale
_FP4_GROUP: Final = 32
_ROW_ALIGNMENT: Final = 8  # bytes; the kernels read rows in words of this size
_COMPARED_LAYERS: Final = 61  # of V3.2, and of the GQA model in the report's comparison
V32_BYTES_PER_TOKEN: Final = _COMPARED_LAYERS * (656 + 132)
"""V3.2's cache, 61 layers: 512 e4m3 + 4 fp32 scales + 64 bf16 of MLA, and an FP8 index key with its scale."""


def gqa8_bytes_per_token(layers: int = _COMPARED_LAYERS) -> int:
    """Cache of a bf16 model with 8 KV heads of 128 channels, in bytes a token."""
    return layers * 2 * 8 * 128 * 2


def main_entry_bytes(config: ModelConfig, cache: CacheFormat) -> int:
    """Bytes of one window row or compressed entry; 584 for the released shape in FP8.

    An FP8 row is e4m3 channels, bf16 rotary channels and one e8m0 scale for 64 channels, padded to 8 bytes.
    """
    match cache:
        case CacheFormat.FP32:
            return 4 * config.head_dim
        case CacheFormat.BF16:
            return 2 * config.head_dim
        case CacheFormat.FP8 | CacheFormat.FP8_FP4:
            plain = config.head_dim - config.qk_rope_head_dim
            row = plain + 2 * config.qk_rope_head_dim + ceil(plain / _FP8_GROUP)
            return ceil(row / _ROW_ALIGNMENT) * _ROW_ALIGNMENT


def index_key_bytes(config: ModelConfig, cache: CacheFormat) -> int:
    """Bytes of one indexer key; at 128 channels 68 in FP4 (e8m0 scales), 132 in FP8 (one fp32 scale)."""
    size = config.index_head_dim
    match cache:
        case CacheFormat.FP32:
            return 4 * size
        case CacheFormat.BF16:
            return 2 * size
        case CacheFormat.FP8:
            return size + 4
        case CacheFormat.FP8_FP4:
            return ceil(size / 2) + ceil(size / _FP4_GROUP)


@dataclass(frozen=True, slots=True)
class KvBytes:
    """Bytes that one sequence holds in all main layers, by kind.

    ``window`` and ``partial`` (the compressors' fp32 value and gate rows of unfinished blocks) are rings that
    have their full size from the first token on. Published figures leave ``partial`` out, as ``total`` does.
    """

    window: int
    csa_entries: int
    hca_entries: int
    index_keys: int
    partial: int

    @property
    def total(self) -> int:
        """Window rows, compressed entries and index keys."""
        return self.window + self.csa_entries + self.hca_entries + self.index_keys

    @property
    def held(self) -> int:
        """All that must be in memory: ``total`` and ``partial``."""
        return self.total + self.partial

    def by_kind(self) -> dict[str, int]:
        """What adds up to ``total``, by name."""
        return {
            "window": self.window,
            "csa_entries": self.csa_entries,
            "hca_entries": self.hca_entries,
            "index_keys": self.index_keys,
        }


def kv_bytes(config: ModelConfig, tokens: int, cache: CacheFormat) -> KvBytes:
    """Bytes of a sequence of ``tokens``; incomplete blocks have no entry yet."""
    entry, key = main_entry_bytes(config, cache), index_key_bytes(config, cache)
    csa, hca = _ratios(config, AttentionKind.CSA), _ratios(config, AttentionKind.HCA)
    overlapping = 2 * CSA_RATIO * 2 * (config.head_dim + config.index_head_dim)  # 8 rows, double channels
    rows = len(csa) * overlapping + sum(ratio * config.head_dim for ratio in hca)
    return KvBytes(
        window=config.num_hidden_layers * config.sliding_window * entry,
        csa_entries=sum(tokens // ratio for ratio in csa) * entry,
        hca_entries=sum(tokens // ratio for ratio in hca) * entry,
        index_keys=sum(tokens // ratio for ratio in csa) * key,
        partial=rows * 2 * 4,
    )


def bytes_per_token(config: ModelConfig, cache: CacheFormat) -> float:
    """Bytes that one more token adds to a long context, averaged over a block."""
    entry, key = main_entry_bytes(config, cache), index_key_bytes(config, cache)
    csa, hca = _ratios(config, AttentionKind.CSA), _ratios(config, AttentionKind.HCA)
    return sum((entry + key) / ratio for ratio in csa) + sum(entry / ratio for ratio in hca)


def restart_point_bytes(config: ModelConfig, cache: CacheFormat) -> int:
    """What must be copied to resume at a block boundary: all windows and the CSA overlap.

    At such a position HCA has no partial rows, and of CSA's only the first channel half of the last block's
    four rows is needed (value and gate, fp32). Compressed entries are shared, not copied.
    """
    windows = config.num_hidden_layers * config.sliding_window * main_entry_bytes(config, cache)
    overlap = CSA_RATIO * (config.head_dim + config.index_head_dim) * 2 * 4
    return windows + len(_ratios(config, AttentionKind.CSA)) * overlap


def _ratios(config: ModelConfig, kind: AttentionKind) -> list[int]:
    layers = range(config.num_hidden_layers)
    return [config.ratio(layer) for layer in layers if config.kind(layer) is kind]


# --- FLOPs ------------------------------------------------------------------------------------------------

_V32_ACTIVE: Final = 37.48e9
_V32_TOPK: Final = 2048


@dataclass(frozen=True, slots=True)
class Flops:
    """Floating-point operations (a multiply-add is two) by part.

    ``fp8_equivalent`` weighs the bf16 attention core double and the indexer by ``indexer_weight`` (half for
    FP4); the technical report gives no weights, but these reproduce its 27 % and 10 % of V3.2.
    """

    linear: float
    attention_core: float
    indexer: float
    indexer_weight: float = 0.5

    @property
    def total(self) -> float:
        """Plain sum."""
        return self.linear + self.attention_core + self.indexer

    @property
    def fp8_equivalent(self) -> float:
        """Sum with the core counted as bf16 and the indexer in its own precision."""
        return self.linear + 2 * self.attention_core + self.indexer_weight * self.indexer


def flops_per_token(config: ModelConfig, context: int) -> Flops:
    """FLOPs of the token that a context of ``context`` tokens ends with (head included, no drafts)."""
    visible = sum(_visible(config, layer, context) for layer in range(config.num_hidden_layers))
    scanned = sum(context // ratio for ratio in _ratios(config, AttentionKind.CSA))
    return _flops(config, 2 * parameters(config).active, visible, scanned)


def flops_per_token_v32(context: int) -> Flops:
    """The same of V3.2: top-2048 attention over 576 + 512 latent channels and an FP8 scan of all tokens."""
    core = _COMPARED_LAYERS * min(context, _V32_TOPK) * 128 * (576 + 512) * 2
    return Flops(2 * _V32_ACTIVE, core, _COMPARED_LAYERS * context * 64 * 128 * 2, indexer_weight=1.0)


def prefill_flops(config: ModelConfig, tokens: int) -> Flops:
    """FLOPs of reading ``tokens`` into an empty sequence, with logits of the last one only."""
    if tokens < 1:
        return Flops(0, 0, 0)
    head = config.vocab_size * config.hidden_size
    linear = 2 * (parameters(config).active - head) * tokens + 2 * head
    visible = config.num_hidden_layers * _sum_of_blocks(tokens, 1, config.sliding_window)
    csa = _ratios(config, AttentionKind.CSA)
    visible += sum(_sum_of_blocks(tokens, ratio, config.index_topk) for ratio in csa)
    visible += sum(_sum_of_blocks(tokens, ratio) for ratio in _ratios(config, AttentionKind.HCA))
    return _flops(config, linear, visible, sum(_sum_of_blocks(tokens, ratio) for ratio in csa))


def _flops(config: ModelConfig, linear: int, visible: int, scanned: int) -> Flops:
    core = visible * config.num_attention_heads * config.head_dim * 4
    return Flops(linear, core, scanned * config.index_n_heads * config.index_head_dim * 2)


def _visible(config: ModelConfig, layer: int, context: int) -> int:
    window, ratio = min(context, config.sliding_window), config.ratio(layer)
    match config.kind(layer):
        case AttentionKind.WINDOW:
            return window
        case AttentionKind.CSA:
            return window + min(config.index_topk, context // ratio)
        case AttentionKind.HCA:
            return window + context // ratio


def _sum_of_blocks(tokens: int, ratio: int, most: int | None = None) -> int:
    """Sum over t = 1..tokens of ``min(t // ratio, most)``."""
    if most is not None and tokens >= most * ratio:
        return _sum_of_blocks(most * ratio - 1, ratio) + most * (tokens - most * ratio + 1)
    blocks, rest = divmod(tokens, ratio)
    return ratio * blocks * (blocks - 1) // 2 + blocks * (rest + 1)
