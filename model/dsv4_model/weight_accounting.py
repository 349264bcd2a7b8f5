"""The tensors of a DeepSeek-V4 checkpoint, counted from its configuration: parameters and stored bytes.

The list follows the released files (names, shapes and dtypes of section 4.2 of their description); totals
agree with both releases to the byte. `dsv4_model.accounting` offers all of this together with KV and FLOPs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, prod
from typing import Final

from dsv4_model.config import CSA_RATIO, ModelConfig

__all__ = [
    "Component",
    "Parameters",
    "embedding_bytes",
    "expert_bytes",
    "layer_weight_bytes",
    "parameters",
    "tensor_count",
    "weight_bytes",
    "weight_bytes_per_token",
]


class Component(StrEnum):
    """Parts of a checkpoint, by how they are stored and when they are read."""

    ROUTED_EXPERTS = "routed_experts"
    DENSE_FP8 = "dense_fp8"
    BF16 = "bf16"
    FP32 = "fp32"
    INT64 = "int64"
    MTP = "mtp"


_FP8_BLOCK: Final = 128
_FP4_GROUP: Final = 32
_MARKOV_RANK: Final = 256  # DSpark's, where the configuration doesn't say


class _Kind(StrEnum):
    EXPERT = "expert"
    LINEAR = "linear"
    PLAIN = "plain"
    EMBEDDING = "embedding"
    FP32 = "fp32"
    INT64 = "int64"


@dataclass(frozen=True, slots=True)
class _Tensors:
    """``count`` equal tensors of one logical ``shape`` (rows, columns), without their scales."""

    kind: _Kind
    shape: tuple[int, ...]
    count: int = 1

    @property
    def values(self) -> int:
        return self.count * prod(self.shape)


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers of parameters; scales and the hash layers' tables of expert ids are not parameters.

    ``total`` is without draft stages (``mtp``). ``active`` are those that one token is multiplied with:
    its chosen experts and all the rest except the embedding table, of which it reads one row.
    """

    total: int
    active: int
    mtp: int


def parameters(config: ModelConfig) -> Parameters:
    """Count the parameters: 284.3 B and 13.3 B active for Flash, 1,573.0 B and 48.9 B for Pro."""
    main = [t for t in _main(config) if t.kind is not _Kind.INT64]
    resting = config.n_routed_experts - config.num_experts_per_tok
    total = sum(t.values for t in main)
    idle = sum(t.values // config.n_routed_experts * resting for t in main if t.kind is _Kind.EXPERT)
    idle += sum(t.values for t in main if t.kind is _Kind.EMBEDDING)
    return Parameters(total, total - idle, sum(t.values for t in _draft(config)))


def tensor_count(config: ModelConfig) -> int:
    """Number of tensors in a checkpoint, scales and draft stages included."""
    every = (*_main(config), *_draft(config))
    return sum(t.count * (2 if _is_scaled(config, t.kind) else 1) for t in every)


def weight_bytes(config: ModelConfig) -> dict[Component, int]:
    """Bytes of the stored tensors by component, scales included, in the checkpoint's precision.

    Without ``quantization_config`` and ``expert_dtype`` all matrices are in ``torch_dtype``.
    """
    sizes = dict.fromkeys(Component, 0)
    for tensors in _main(config):
        sizes[_component(config, tensors.kind)] += _stored(config, tensors)
    sizes[Component.MTP] = sum(_stored(config, tensors) for tensors in _draft(config))
    return sizes


def layer_weight_bytes(config: ModelConfig) -> list[int]:
    """Stored bytes of each main layer."""
    return [
        sum(_stored(config, t) for t in _layer(config, config.ratio(n), hashed=config.is_hash_routed(n)))
        for n in range(config.num_hidden_layers)
    ]


def embedding_bytes(config: ModelConfig) -> int:
    """Stored bytes of the embedding table."""
    return _stored(config, _Tensors(_Kind.EMBEDDING, (config.vocab_size, config.hidden_size)))


def weight_bytes_per_token(config: ModelConfig) -> dict[Component, int]:
    """Weight bytes that decoding one token in a batch of one reads, by component.

    Draft stages aren't run; of the embedding and of the hash layers' tables it reads one row.
    """
    sizes = weight_bytes(config)
    sizes[Component.ROUTED_EXPERTS] = (
        config.num_hidden_layers * config.num_experts_per_tok * expert_bytes(config)
    )
    sizes[_component(config, _Kind.EMBEDDING)] -= sum(
        _stored(config, tensors) for tensors in _main(config) if tensors.kind is _Kind.EMBEDDING
    )
    return {part: size for part, size in sizes.items() if part not in (Component.INT64, Component.MTP)}


def expert_bytes(config: ModelConfig) -> int:
    """Stored bytes of one routed expert: three matrices and their scales."""
    return sum(_stored(config, tensors) for tensors in _expert_matrices(config, 1))


def _component(config: ModelConfig, kind: _Kind) -> Component:
    match kind:
        case _Kind.EXPERT:
            return Component.ROUTED_EXPERTS
        case _Kind.LINEAR if _is_quantized(config):
            return Component.DENSE_FP8
        case _Kind.INT64:
            return Component.INT64
        case _Kind.FP32:
            return Component.FP32
        case _:
            return Component.FP32 if _plain_size(config) == 4 else Component.BF16


def _is_quantized(config: ModelConfig) -> bool:
    """Configurations of the reference runner have no ``quantization_config``, only an expert dtype."""
    return config.quantization_config is not None or config.expert_dtype is not None


def _plain_size(config: ModelConfig) -> int:
    return 4 if config.torch_dtype == "float32" and not _is_quantized(config) else 2


def _is_scaled(config: ModelConfig, kind: _Kind) -> bool:
    return _is_quantized(config) and kind in (_Kind.EXPERT, _Kind.LINEAR)


def _stored(config: ModelConfig, tensors: _Tensors) -> int:
    if tensors.kind in (_Kind.FP32, _Kind.INT64):
        return tensors.values * (4 if tensors.kind is _Kind.FP32 else 8)
    if not _is_scaled(config, tensors.kind):
        return tensors.values * _plain_size(config)
    rows, columns = tensors.shape
    if tensors.kind is _Kind.EXPERT and config.expert_dtype == "fp4":
        return tensors.count * rows * (ceil(columns / 2) + ceil(columns / _FP4_GROUP))
    blocks = ceil(rows / _FP8_BLOCK) * ceil(columns / _FP8_BLOCK)
    return tensors.count * (rows * columns + blocks)


def _main(config: ModelConfig) -> Iterator[_Tensors]:
    d = config.hidden_size
    yield _Tensors(_Kind.EMBEDDING, (config.vocab_size, d))
    yield _Tensors(_Kind.PLAIN, (config.vocab_size, d))
    yield _Tensors(_Kind.PLAIN, (d,))
    yield from _collapse(config)
    for layer in range(config.num_hidden_layers):
        yield from _layer(config, config.ratio(layer), hashed=config.is_hash_routed(layer))


def _draft(config: ModelConfig) -> Iterator[_Tensors]:
    d = config.hidden_size
    if not config.has_dspark:
        for _ in range(config.num_nextn_predict_layers):
            yield from _layer(config, 0, hashed=False)
            yield _Tensors(_Kind.LINEAR, (d, d), 2)
            yield _Tensors(_Kind.PLAIN, (d,), 3)
            yield from _collapse(config)
        return
    sources = config.dspark_target_layer_ids or ()
    for _ in range(len(config.compress_ratios) - config.num_hidden_layers):
        yield from _layer(config, 0, hashed=False)
    yield _Tensors(_Kind.LINEAR, (d, len(sources) * d))
    yield _Tensors(_Kind.PLAIN, (d,), 2)
    rank = config.dspark_markov_rank or _MARKOV_RANK
    yield _Tensors(_Kind.PLAIN, (config.vocab_size, rank), 2)
    yield _Tensors(_Kind.PLAIN, (1, d + rank))
    yield from _collapse(config)


def _collapse(config: ModelConfig) -> Iterator[_Tensors]:
    streams = config.hc_mult
    yield _Tensors(_Kind.FP32, (streams, streams * config.hidden_size))
    yield _Tensors(_Kind.FP32, (streams,))
    yield _Tensors(_Kind.FP32, (1,))


def _layer(config: ModelConfig, ratio: int, *, hashed: bool) -> Iterator[_Tensors]:
    d, streams = config.hidden_size, config.hc_mult
    maps = (2 + streams) * streams
    for shape in ((maps, streams * d), (maps,), (3,)):
        yield _Tensors(_Kind.FP32, shape, 2)
    yield _Tensors(_Kind.PLAIN, (d,), 2)
    yield from _attention(config)
    if ratio:
        yield from _compressor(config, ratio, config.head_dim)
    if ratio == CSA_RATIO:
        yield _Tensors(_Kind.LINEAR, (config.index_n_heads * config.index_head_dim, config.q_lora_rank))
        yield _Tensors(_Kind.PLAIN, (config.index_n_heads, d))
        yield from _compressor(config, ratio, config.index_head_dim)
    yield _Tensors(_Kind.PLAIN, (config.n_routed_experts, d))
    if hashed:
        yield _Tensors(_Kind.INT64, (config.vocab_size, config.num_experts_per_tok))
    else:
        yield _Tensors(_Kind.FP32, (config.n_routed_experts,))
    inner = config.moe_intermediate_size
    yield _Tensors(_Kind.LINEAR, (inner, d), 2 * config.n_shared_experts)
    yield _Tensors(_Kind.LINEAR, (d, inner), config.n_shared_experts)
    yield from _expert_matrices(config, config.n_routed_experts)


def _expert_matrices(config: ModelConfig, experts: int) -> Iterator[_Tensors]:
    d, inner = config.hidden_size, config.moe_intermediate_size
    yield _Tensors(_Kind.EXPERT, (inner, d), 2 * experts)
    yield _Tensors(_Kind.EXPERT, (d, inner), experts)


def _attention(config: ModelConfig) -> Iterator[_Tensors]:
    d, latent = config.hidden_size, config.q_lora_rank
    width = config.num_attention_heads * config.head_dim
    grouped = config.o_groups * config.o_lora_rank
    for shape in ((latent, d), (width, latent), (config.head_dim, d)):
        yield _Tensors(_Kind.LINEAR, shape)
    yield _Tensors(_Kind.LINEAR, (grouped, width // config.o_groups))
    yield _Tensors(_Kind.LINEAR, (d, grouped))
    yield _Tensors(_Kind.PLAIN, (latent,))
    yield _Tensors(_Kind.PLAIN, (config.head_dim,))
    yield _Tensors(_Kind.FP32, (config.num_attention_heads,))


def _compressor(config: ModelConfig, ratio: int, size: int) -> Iterator[_Tensors]:
    channels = 2 * size if ratio == CSA_RATIO else size
    yield _Tensors(_Kind.FP32, (ratio, channels))
    yield _Tensors(_Kind.PLAIN, (channels, config.hidden_size), 2)
    yield _Tensors(_Kind.PLAIN, (size,))
