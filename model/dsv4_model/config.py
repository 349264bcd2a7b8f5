"""Model configuration: the official ``config.json`` or ``inference/config.json`` as a frozen dataclass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from dsv4_model.config_error import ConfigError
from dsv4_model.config_transformers import from_transformers

__all__ = ["AttentionKind", "ConfigError", "ModelConfig", "YarnScaling"]

CSA_RATIO = 4

_INFERENCE_NAMES = {
    "dim": "hidden_size",
    "moe_inter_dim": "moe_intermediate_size",
    "n_layers": "num_hidden_layers",
    "n_hash_layers": "num_hash_layers",
    "n_mtp_layers": "num_nextn_predict_layers",
    "n_heads": "num_attention_heads",
    "n_activated_experts": "num_experts_per_tok",
    "score_func": "scoring_func",
    "route_scale": "routed_scaling_factor",
    "rope_head_dim": "qk_rope_head_dim",
    "window_size": "sliding_window",
    "max_seq_len": "max_position_embeddings",
}
_YARN_INFERENCE_NAMES = {
    "rope_factor": "factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "original_seq_len": "original_max_position_embeddings",
}


class AttentionKind(StrEnum):
    """What a layer attends to beside its sliding window."""

    WINDOW = "window"
    CSA = "csa"
    HCA = "hca"


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN parameters of the layers that have a compressor (no attention factor in this family)."""

    factor: float = 16.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    original_max_position_embeddings: int = 65536


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and constants of one DeepSeek-V4 checkpoint, under the key names of its ``config.json``.

    ``compress_ratios`` may be longer than the number of layers (draft stages follow); entry ``i`` of the
    first ``num_hidden_layers`` decides layer ``i``: 0 = sliding window only, 4 = CSA, anything else = HCA.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    q_lora_rank: int
    o_groups: int
    o_lora_rank: int
    moe_intermediate_size: int
    n_routed_experts: int
    num_experts_per_tok: int
    compress_ratios: tuple[int, ...]
    qk_rope_head_dim: int = 64
    num_key_value_heads: int = 1
    n_shared_experts: int = 1
    num_hash_layers: int = 3
    num_nextn_predict_layers: int = 1
    sliding_window: int = 128
    index_n_heads: int = 64
    index_head_dim: int = 128
    index_topk: int = 512
    hc_mult: int = 4
    hc_sinkhorn_iters: int = 20
    hc_eps: float = 1e-6
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    compress_rope_theta: float = 160000.0
    rope_scaling: YarnScaling | None = YarnScaling()
    max_position_embeddings: int = 1048576
    routed_scaling_factor: float = 1.5
    scoring_func: str = "sqrtsoftplus"
    topk_method: str = "noaux_tc"
    norm_topk_prob: bool = True
    swiglu_limit: float = 10.0
    hidden_act: str = "silu"
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    attention_dropout: float = 0.0
    bos_token_id: int = 0
    eos_token_id: int = 1
    initializer_range: float = 0.02
    expert_dtype: str | None = None
    torch_dtype: str = "bfloat16"
    quantization_config: Mapping[str, Any] | None = None
    dspark_block_size: int | None = None
    dspark_noise_token_id: int | None = None
    dspark_target_layer_ids: tuple[int, ...] | None = None
    dspark_markov_rank: int | None = None

    def __post_init__(self) -> None:
        _validate(self)

    @property
    def has_dspark(self) -> bool:
        """Whether the ``mtp.*`` tensors are DSpark draft stages, which this engine doesn't run."""
        return self.dspark_block_size is not None

    def ratio(self, layer: int) -> int:
        """Compression ratio of main layer ``layer``."""
        return self.compress_ratios[layer]

    def kind(self, layer: int) -> AttentionKind:
        """Attention kind of main layer ``layer``."""
        match self.compress_ratios[layer]:
            case 0:
                return AttentionKind.WINDOW
            case r if r == CSA_RATIO:
                return AttentionKind.CSA
            case _:
                return AttentionKind.HCA

    def is_hash_routed(self, layer: int) -> bool:
        """Whether main layer ``layer`` chooses its experts by token id."""
        return layer < self.num_hash_layers

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ModelConfig:
        """Read any key style: ``config.json``, ``inference/config.json``, or what transformers writes.

        Unknown keys are ignored, as every loader of this format does. Raises `ConfigError`.
        """
        _refuse_other_architectures(raw)
        raw = from_transformers(raw)
        values = {_INFERENCE_NAMES.get(key, key): value for key, value in raw.items()}
        if "rope_scaling" in values:
            values["rope_scaling"] = _yarn_from_official(values["rope_scaling"])
        elif any(name in raw for name in _YARN_INFERENCE_NAMES):
            values["rope_scaling"] = _yarn_from_inference(raw)
        if "dim" in raw:
            values.setdefault("num_nextn_predict_layers", _trailing_stages(values))
        known = {f.name: f for f in fields(cls)}
        missing = [name for name in _REQUIRED if values.get(name) is None]
        if missing:
            raise ConfigError(missing[0], None, "the key is required; copy it from the model's config.json")
        chosen = {name: values[name] for name in known if name in values}
        for name in ("compress_ratios", "dspark_target_layer_ids"):
            if isinstance(chosen.get(name), list):
                chosen[name] = tuple(chosen[name])
        return cls(**chosen)

    @classmethod
    def from_file(cls, path: str | Path) -> ModelConfig:
        """Read a JSON file, or the ``config.json`` of a folder. Raises `ConfigError`."""
        path = Path(path)
        if path.is_dir():
            path = path / "config.json"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError("config.json", str(path), f"can't be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError("config.json", str(path), f"is not JSON ({error})") from error
        if not isinstance(raw, dict):
            raise ConfigError("config.json", type(raw).__name__, "must be a JSON object")
        return cls.from_dict(raw)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as an official ``config.json`` object."""
        values: dict[str, Any] = {"architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4"}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            if field.name == "rope_scaling":
                value = {"type": "yarn", **asdict(value)}
            elif isinstance(value, tuple):
                value = list(value)
            elif isinstance(value, Mapping):
                value = dict(value)
            values[field.name] = value
        return values


_LARGEST = 2**31 - 1
"""Of sizes: kernels count in 32 bits, and what is larger is a damaged digit."""
_LARGEST_FLOAT = 3.0e38
_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "head_dim",
    "q_lora_rank",
    "o_groups",
    "o_lora_rank",
    "moe_intermediate_size",
    "n_routed_experts",
    "num_experts_per_tok",
    "compress_ratios",
)
_POSITIVE = (
    *_REQUIRED[:-1],
    "qk_rope_head_dim",
    "sliding_window",
    "index_n_heads",
    "index_head_dim",
    "index_topk",
    "hc_mult",
    "hc_sinkhorn_iters",
    "max_position_embeddings",
)


def _refuse_other_architectures(raw: Mapping[str, Any]) -> None:
    model_type = raw.get("model_type", "deepseek_v4")
    if model_type in ("deepseek_v41", "deepseek_v4_1") or "engram_layer_ids" in raw or "text_config" in raw:
        raise ConfigError(
            "model_type",
            model_type,
            "DeepSeek-V4.1 is a different architecture (engram memory, shared KV sources) which this engine "
            "doesn't run; use a DeepSeek-V4 checkpoint, or connect a server that runs V4.1",
        )
    if model_type != "deepseek_v4":
        raise ConfigError("model_type", model_type, "only 'deepseek_v4' is supported; use a V4 checkpoint")


def _yarn_from_official(raw: object) -> YarnScaling | None:
    if raw is None or isinstance(raw, YarnScaling):
        return raw
    if not isinstance(raw, Mapping):
        raise ConfigError("rope_scaling", raw, "must be an object or null")
    kind = raw.get("type", raw.get("rope_type"))
    if kind != "yarn":
        raise ConfigError("rope_scaling.type", kind, "only 'yarn' is supported")
    return _yarn({name: raw[name] for name in _YARN_INFERENCE_NAMES.values() if name in raw})


def _yarn_from_inference(raw: Mapping[str, Any]) -> YarnScaling:
    return _yarn({name: raw[key] for key, name in _YARN_INFERENCE_NAMES.items() if key in raw})


def _yarn(values: Mapping[str, Any]) -> YarnScaling:
    for name, value in values.items():
        if not _is_number(value) or value <= 0:
            raise ConfigError(f"rope_scaling.{name}", value, "must be a positive number")
    return YarnScaling(**values)


def _trailing_stages(values: Mapping[str, Any]) -> int:
    """``inference/config.json`` of the release doesn't count its MTP block; the schedule's tail does."""
    ratios, layers = values.get("compress_ratios"), values.get("num_hidden_layers")
    if not isinstance(ratios, list) or not isinstance(layers, int):
        return 1
    return min(1, max(0, len(ratios) - layers))


def _validate(config: ModelConfig) -> None:
    for name in _POSITIVE:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST:
            raise ConfigError(name, value, "must be a positive integer below 2**31")
    for name in ("num_hash_layers", "num_nextn_predict_layers"):
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST:
            raise ConfigError(name, value, "must be a non-negative integer below 2**31")
    for name in ("hc_eps", "rms_norm_eps", "routed_scaling_factor"):
        value = getattr(config, name)
        if not _is_number(value) or not value > 0:
            raise ConfigError(name, value, "must be a positive number")
    for name in ("rope_theta", "compress_rope_theta"):
        value = getattr(config, name)
        if not _is_number(value) or not value > 1:
            raise ConfigError(name, value, "must be a number above 1")
    if not _is_number(config.swiglu_limit):
        raise ConfigError("swiglu_limit", config.swiglu_limit, "must be a number")
    if not isinstance(config.quantization_config, Mapping | None):
        raise ConfigError("quantization_config", config.quantization_config, "must be an object or null")
    _validate_schedule(config)
    _validate_shapes(config)
    _validate_fixed_choices(config)


def _is_number(value: object) -> bool:
    """Whether it is one that single precision holds: kernels and tables are made of those."""
    return isinstance(value, int | float) and type(value) is not bool and abs(value) <= _LARGEST_FLOAT


def _validate_schedule(config: ModelConfig) -> None:
    ratios, layers = config.compress_ratios, config.num_hidden_layers
    if not isinstance(ratios, tuple) or not all(type(r) is int for r in ratios):
        raise ConfigError("compress_ratios", ratios, "must be a list of integers, one a layer")
    if len(ratios) < layers:
        raise ConfigError(
            "compress_ratios", list(ratios), f"has {len(ratios)} entries but num_hidden_layers is {layers}"
        )
    for index, ratio in enumerate(ratios[:layers]):
        if ratio < 0 or ratio == 1:
            raise ConfigError(f"compress_ratios[{index}]", ratio, "must be 0 (window), 4 (CSA) or 128 (HCA)")


def _validate_shapes(config: ModelConfig) -> None:
    if config.qk_rope_head_dim % 2:
        raise ConfigError("qk_rope_head_dim", config.qk_rope_head_dim, "must be even (rotated pairs)")
    for name in ("head_dim", "index_head_dim"):
        value = getattr(config, name)
        if value < config.qk_rope_head_dim:
            raise ConfigError(name, value, f"must be at least qk_rope_head_dim ({config.qk_rope_head_dim})")
    if config.num_attention_heads % config.o_groups:
        raise ConfigError("o_groups", config.o_groups, "must divide num_attention_heads")
    if config.num_experts_per_tok > config.n_routed_experts:
        raise ConfigError(
            "num_experts_per_tok", config.num_experts_per_tok, "must not exceed n_routed_experts"
        )


def _validate_fixed_choices(config: ModelConfig) -> None:
    fixed: tuple[tuple[str, object], ...] = (
        ("scoring_func", "sqrtsoftplus"),
        ("topk_method", "noaux_tc"),
        ("hidden_act", "silu"),
        ("num_key_value_heads", 1),
        ("n_shared_experts", 1),
        ("norm_topk_prob", True),
        ("tie_word_embeddings", False),
        ("attention_bias", False),
    )
    for name, required in fixed:
        value = getattr(config, name)
        if value != required:
            raise ConfigError(name, value, f"DeepSeek-V4 uses {required!r}; no other value is implemented")
    if config.expert_dtype not in (None, "fp4", "fp8"):
        raise ConfigError("expert_dtype", config.expert_dtype, "must be 'fp4', 'fp8' or absent")
