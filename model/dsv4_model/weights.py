"""All weights of a model for inference, as they are stored: from a module or from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from dsv4_model.checkpoint_reader import Checkpoint, CheckpointError, open_checkpoint, scale_name_of
from dsv4_model.config import CSA_RATIO, ModelConfig
from dsv4_model.layer_weights import (
    CompressorWeights,
    ExpertWeights,
    IndexerWeights,
    LayerWeights,
    LazyExperts,
    MixingWeights,
    MtpWeights,
)
from dsv4_model.matrix import Matrix
from dsv4_model.memory import Block
from dsv4_model.transformer import DeepseekV4

__all__ = [
    "CompressorWeights",
    "ExpertWeights",
    "IndexerWeights",
    "LayerWeights",
    "LazyExperts",
    "MixingWeights",
    "ModelWeights",
    "MtpWeights",
    "WeightSource",
]


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """The whole model. ``rounds_activations``: linears see their input after the FP8 round trip of the
    quantisation-aware training, and cache entries take theirs whatever the cache format (section 2.8).
    """

    config: ModelConfig
    embed: Matrix
    layers: tuple[LayerWeights, ...]
    norm: Tensor
    head: Matrix
    head_mixing: MixingWeights
    mtp: MtpWeights | None
    rounds_activations: bool = False

    @classmethod
    def of_module(cls, model: DeepseekV4) -> ModelWeights:
        """Views of a module's parameters; no copies."""
        source = _ModuleSource(model.state_dict(keep_vars=False))
        rounds = model.simulate_quantization
        return _build(model.config, source, with_mtp=len(model.mtp) > 0, rounds_activations=rounds)

    @classmethod
    def open(
        cls, path: str | Path, *, with_mtp: bool = True, source: WeightSource | None = None
    ) -> ModelWeights:
        """Map a checkpoint folder: matrices stay packed and in the file until they are used.

        ``source`` replaces the reading of the folder's own files, e.g. by one that streams experts.

        Raises:
            ConfigError: ``config.json`` describes something this engine can't run.
            CheckpointError: anything wrong with the weights; names file, tensor and remedy.
        """
        return cls.of_checkpoint(open_checkpoint(path), with_mtp=with_mtp, source=source)

    @classmethod
    def of_checkpoint(
        cls, checkpoint: Checkpoint, *, with_mtp: bool = True, source: WeightSource | None = None
    ) -> ModelWeights:
        """The same for a checkpoint that is open already."""
        file = checkpoint.path / "config.json"
        if not file.is_file():
            raise CheckpointError("is missing.", "Copy it from the model's repository.", file=file)
        config = ModelConfig.from_file(file)
        own = source if source is not None else CheckpointSource(checkpoint)
        with_mtp = with_mtp and config.num_nextn_predict_layers > 0 and not config.has_dspark
        has_mtp = with_mtp and any(name.startswith("mtp.0.") for name in checkpoint.tensors)
        weights = _build(config, own, with_mtp=has_mtp, rounds_activations=_asks_for_rounding(config))
        if isinstance(own, CheckpointSource):
            own.refuse_unknown()
        return weights

    def in_memory(self) -> ModelWeights:
        """The same with all matrices copied into one block of memory.

        For small models: what is read for every token is then in huge pages, and a file that is written to
        while it is in use does no harm. Experts that are brought when asked for stay where they are.
        """
        block = Block(sum(Block.room(part.nbytes) for matrix in matrices_of(self) for part in matrix.parts))

        def moved(value: Any) -> Any:
            if isinstance(value, Matrix):
                return value.map(block.copy)
            if isinstance(value, tuple):
                return tuple(moved(item) for item in value)
            if is_dataclass(value) and not isinstance(value, ModelConfig | type):
                return replace(value, **{f.name: moved(getattr(value, f.name)) for f in fields(value)})
            return value

        return cast(ModelWeights, moved(self))

    @property
    def nbytes(self) -> int:
        """Bytes of all matrices but those of experts that are brought when asked for."""
        return sum(matrix.nbytes for matrix in matrices_of(self))

    @property
    def all_layers(self) -> tuple[LayerWeights, ...]:
        """The main layers, then the MTP block's."""
        return self.layers if self.mtp is None else (*self.layers, self.mtp.layer)


class WeightSource(Protocol):
    """Where weights come from, by official name."""

    def matrix(self, name: str, rows: int, columns: int) -> Matrix:
        """A matrix as stored."""
        ...

    def vector(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A small tensor in fp32."""
        ...

    def integers(self, name: str, shape: tuple[int, ...], below: int) -> Tensor:
        """A table (int64) of numbers in ``0 .. below - 1``."""
        ...

    def experts(self, prefix: str, config: ModelConfig) -> Items[ExpertWeights]:
        """The routed experts under ``prefix``, e.g. ``layers.3.ffn.experts``."""
        ...


class _ModuleSource:
    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._state = state

    def matrix(self, name: str, rows: int, columns: int) -> Matrix:
        return Matrix.of(self._state[name])

    def vector(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self._state[name].detach().float().contiguous()

    def integers(self, name: str, shape: tuple[int, ...], below: int) -> Tensor:
        return self._state[name].contiguous()

    def experts(self, prefix: str, config: ModelConfig) -> Items[ExpertWeights]:
        return read_experts(self, prefix, config)


class CheckpointSource:
    """Tensors of an opened checkpoint, each checked against the shape that the model needs."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._used: set[str] = set()

    def matrix(self, name: str, rows: int, columns: int) -> Matrix:
        checkpoint = self.checkpoint
        checkpoint.check(name, torch.float32, (rows, columns))
        self._used.add(name)
        info = checkpoint.info(name)
        if info.dtype in ("BF16", "F32"):
            return Matrix.of(checkpoint.stored(name))
        scale_name = scale_name_of(name)
        if info.dtype in ("F8_E4M3", "I8") and checkpoint.info(scale_name).dtype == "F8_E8M0":
            self._used.add(scale_name)
            return Matrix.of(checkpoint.stored(name), checkpoint.stored(scale_name))
        self._used.add(scale_name)
        return Matrix.of(checkpoint.tensor(name, torch.float32))

    def vector(self, name: str, shape: tuple[int, ...]) -> Tensor:
        self._used.add(name)
        value = self.checkpoint.tensor(name, torch.float32, shape).clone()
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(
                "holds NaN or infinite values.",
                "The file is corrupt; download it again.",
                file=self.checkpoint.info(name).file,
                tensor=name,
            )
        return value

    def integers(self, name: str, shape: tuple[int, ...], below: int) -> Tensor:
        self._used.add(name)
        value = self.checkpoint.tensor(name, torch.int64, shape)
        low, high = int(value.min()), int(value.max())
        if low < 0 or high >= below:
            raise CheckpointError(
                f"names expert {low if low < 0 else high}, but there are {below}.",
                "The file is corrupt; download it again.",
                file=self.checkpoint.info(name).file,
                tensor=name,
            )
        return value

    def experts(self, prefix: str, config: ModelConfig) -> Items[ExpertWeights]:
        return read_experts(self, prefix, config)

    def refuse_unknown(self) -> None:
        """Raise `CheckpointError` where the files hold tensors that no part of the model asked for."""
        for name in sorted(set(self.checkpoint.tensors) - self._used):
            if not name.startswith("mtp."):
                raise CheckpointError(
                    "the model described by config.json has no such tensor.",
                    "config.json and weights belong to different models; take both from one place.",
                    file=self.checkpoint.tensors[name].file,
                    tensor=name,
                )


def read_expert(source: WeightSource, prefix: str, config: ModelConfig) -> ExpertWeights:
    """One expert, e.g. of ``layers.0.ffn.shared_experts``."""
    d, inner = config.hidden_size, config.moe_intermediate_size
    return ExpertWeights(
        w1=source.matrix(f"{prefix}.w1.weight", inner, d),
        w2=source.matrix(f"{prefix}.w2.weight", d, inner),
        w3=source.matrix(f"{prefix}.w3.weight", inner, d),
    )


def read_experts(source: WeightSource, prefix: str, config: ModelConfig) -> tuple[ExpertWeights, ...]:
    """All routed experts of a layer, at once."""
    return tuple(read_expert(source, f"{prefix}.{e}", config) for e in range(config.n_routed_experts))


def _asks_for_rounding(config: ModelConfig) -> bool:
    """Whether activations were rounded to FP8 in training: a dynamic scheme in ``quantization_config``."""
    quantization = config.quantization_config
    return quantization is not None and quantization.get("activation_scheme") == "dynamic"


def _build(
    config: ModelConfig, source: WeightSource, *, with_mtp: bool, rounds_activations: bool
) -> ModelWeights:
    d = config.hidden_size
    # The two sizes that decide how much there is to read come first.
    embed = source.matrix("embed.weight", config.vocab_size, d)
    layers = tuple(
        _layer(config, source, f"layers.{number}", config.ratio(number), config.is_hash_routed(number))
        for number in range(config.num_hidden_layers)
    )
    return ModelWeights(
        config=config,
        embed=embed,
        layers=layers,
        norm=source.vector("norm.weight", (d,)),
        head=source.matrix("head.weight", config.vocab_size, d),
        head_mixing=_head_mixing(config, source, "hc_head"),
        mtp=_mtp(config, source) if with_mtp else None,
        rounds_activations=rounds_activations,
    )


def _layer(config: ModelConfig, source: WeightSource, prefix: str, ratio: int, hashed: bool) -> LayerWeights:
    c, d = config, config.hidden_size
    attn, ffn = f"{prefix}.attn", f"{prefix}.ffn"
    group_inputs = c.num_attention_heads * c.head_dim // c.o_groups
    return LayerWeights(
        ratio=ratio,
        attn_norm=source.vector(f"{prefix}.attn_norm.weight", (d,)),
        ffn_norm=source.vector(f"{prefix}.ffn_norm.weight", (d,)),
        attn_mixing=_mixing(c, source, f"{prefix}.hc_attn"),
        ffn_mixing=_mixing(c, source, f"{prefix}.hc_ffn"),
        sink=source.vector(f"{attn}.attn_sink", (c.num_attention_heads,)),
        wq_a=source.matrix(f"{attn}.wq_a.weight", c.q_lora_rank, d),
        q_norm=source.vector(f"{attn}.q_norm.weight", (c.q_lora_rank,)),
        wq_b=source.matrix(f"{attn}.wq_b.weight", c.num_attention_heads * c.head_dim, c.q_lora_rank),
        wkv=source.matrix(f"{attn}.wkv.weight", c.head_dim, d),
        kv_norm=source.vector(f"{attn}.kv_norm.weight", (c.head_dim,)),
        wo_a=source.matrix(f"{attn}.wo_a.weight", c.o_groups * c.o_lora_rank, group_inputs),
        wo_b=source.matrix(f"{attn}.wo_b.weight", d, c.o_groups * c.o_lora_rank),
        compressor=_compressor(c, source, f"{attn}.compressor", ratio, c.head_dim) if ratio else None,
        indexer=_indexer(c, source, f"{attn}.indexer") if ratio == CSA_RATIO else None,
        gate=source.matrix(f"{ffn}.gate.weight", c.n_routed_experts, d),
        gate_bias=None if hashed else source.vector(f"{ffn}.gate.bias", (c.n_routed_experts,)),
        tid2eid=source.integers(
            f"{ffn}.gate.tid2eid", (c.vocab_size, c.num_experts_per_tok), c.n_routed_experts
        )
        if hashed
        else None,
        shared=read_expert(source, f"{ffn}.shared_experts", c),
        experts=source.experts(f"{ffn}.experts", c),
    )


def _mixing(config: ModelConfig, source: WeightSource, prefix: str) -> MixingWeights:
    h = config.hc_mult
    maps = (2 + h) * h
    return MixingWeights(
        source.vector(f"{prefix}_fn", (maps, h * config.hidden_size)),
        source.vector(f"{prefix}_base", (maps,)),
        source.vector(f"{prefix}_scale", (3,)),
    )


def _head_mixing(config: ModelConfig, source: WeightSource, prefix: str) -> MixingWeights:
    h = config.hc_mult
    return MixingWeights(
        source.vector(f"{prefix}_fn", (h, h * config.hidden_size)),
        source.vector(f"{prefix}_base", (h,)),
        source.vector(f"{prefix}_scale", (1,)),
    )


def _compressor(
    config: ModelConfig, source: WeightSource, prefix: str, ratio: int, size: int
) -> CompressorWeights:
    channels = 2 * size if ratio == CSA_RATIO else size
    return CompressorWeights(
        wkv=source.matrix(f"{prefix}.wkv.weight", channels, config.hidden_size),
        wgate=source.matrix(f"{prefix}.wgate.weight", channels, config.hidden_size),
        ape=source.vector(f"{prefix}.ape", (ratio, channels)),
        norm=source.vector(f"{prefix}.norm.weight", (size,)),
    )


def _indexer(config: ModelConfig, source: WeightSource, prefix: str) -> IndexerWeights:
    rows = config.index_n_heads * config.index_head_dim
    return IndexerWeights(
        wq_b=source.matrix(f"{prefix}.wq_b.weight", rows, config.q_lora_rank),
        weights_proj=source.matrix(f"{prefix}.weights_proj.weight", config.index_n_heads, config.hidden_size),
        compressor=_compressor(config, source, f"{prefix}.compressor", CSA_RATIO, config.index_head_dim),
    )


def _mtp(config: ModelConfig, source: WeightSource) -> MtpWeights:
    d, prefix = config.hidden_size, "mtp.0"
    return MtpWeights(
        layer=_layer(config, source, prefix, 0, False),
        e_proj=source.matrix(f"{prefix}.e_proj.weight", d, d),
        h_proj=source.matrix(f"{prefix}.h_proj.weight", d, d),
        enorm=source.vector(f"{prefix}.enorm.weight", (d,)),
        hnorm=source.vector(f"{prefix}.hnorm.weight", (d,)),
        norm=source.vector(f"{prefix}.norm.weight", (d,)),
        head_mixing=_head_mixing(config, source, f"{prefix}.hc_head"),
    )


def matrices_of(weights: ModelWeights) -> Iterator[Matrix]:
    """Every matrix but those of experts that are brought when asked for."""

    def within(value: Any) -> Iterator[Matrix]:
        if isinstance(value, Matrix):
            yield value
        elif isinstance(value, tuple):
            for item in value:
                yield from within(item)
        elif is_dataclass(value) and not isinstance(value, ModelConfig | type):
            for field in fields(value):
                yield from within(getattr(value, field.name))

    return within(weights)
