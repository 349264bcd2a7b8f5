"""The ``config.json`` that transformers writes, under the official keys.

transformers folds the layer schedule into lists of names and the rotary parameters into one nested object,
and doesn't write the official keys beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsv4_model.config_error import ConfigError

__all__ = ["from_transformers"]

_RATIOS = {"sliding_attention": 0, "compressed_sparse_attention": 4, "heavily_compressed_attention": 128}
_RENAMES = {"dtype": "torch_dtype", "num_local_experts": "n_routed_experts"}


def from_transformers(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """``raw`` with official keys in place of those of transformers; what is official already stays as it is.

    Raises:
        ConfigError: a schedule or rotary parameters that this architecture doesn't have.
    """
    if not raw.keys() & {"layer_types", "mlp_layer_types", "rope_parameters"}:
        return raw
    values: dict[str, Any] = dict(raw)
    for theirs, ours in _RENAMES.items():
        if values.get(theirs) is not None:
            values.setdefault(ours, values[theirs])
    if values.get("layer_types") is not None:
        values.setdefault("compress_ratios", _ratios(values["layer_types"], values.get("compress_rates")))
    if values.get("mlp_layer_types") is not None:
        values.setdefault("num_hash_layers", _hash_layers(values["mlp_layer_types"]))
    if values.get("rope_parameters") is not None:
        _add_rotary(values, values["rope_parameters"])
    head, factor = values.get("head_dim"), values.get("partial_rotary_factor")
    if isinstance(head, int) and isinstance(factor, int | float):
        values.setdefault("qk_rope_head_dim", int(head * factor))
    quantization = values.get("quantization_config")
    if isinstance(quantization, Mapping) and quantization.get("expert_dtype") is not None:
        values.setdefault("expert_dtype", quantization["expert_dtype"])
    if isinstance(values.get("eos_token_id"), list) and values["eos_token_id"]:
        values["eos_token_id"] = values["eos_token_id"][0]
    return values


def _ratios(names: object, rates: object) -> list[int]:
    if rates is not None and not isinstance(rates, Mapping):
        raise ConfigError("compress_rates", rates, "must be an object of layer types")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError("layer_types", names, "must be a list of names, one a layer")
    ratios = {**_RATIOS, **(rates or {})}
    for index, name in enumerate(names):
        if name not in _RATIOS:
            raise ConfigError(f"layer_types[{index}]", name, f"must be one of {', '.join(_RATIOS)}")
    return [ratios[name] for name in names]


def _hash_layers(names: object) -> int:
    if not isinstance(names, list) or not all(name in ("hash_moe", "moe") for name in names):
        raise ConfigError("mlp_layer_types", names, "must be a list of 'hash_moe' and 'moe', one a layer")
    count = names.count("hash_moe")
    if "hash_moe" in names[count:]:
        raise ConfigError("mlp_layer_types", names, "all 'hash_moe' layers must come before the 'moe' layers")
    return count


def _add_rotary(values: dict[str, Any], parameters: object) -> None:
    if not isinstance(parameters, Mapping):
        raise ConfigError("rope_parameters", parameters, "must be an object")
    # Files from before the nesting hold the compressed layers' parameters alone.
    main, compressed = parameters.get("main", {}), parameters.get("compress", parameters)
    for key, part in (("main", main), ("compress", compressed)):
        if not isinstance(part, Mapping):
            raise ConfigError(f"rope_parameters.{key}", part, "must be an object")
    if main.get("rope_type", "default") != "default":
        raise ConfigError("rope_parameters.main.rope_type", main["rope_type"], "must be 'default'")
    if compressed.get("attention_factor", 1) not in (None, 1):
        raise ConfigError(
            "rope_parameters.compress.attention_factor",
            compressed["attention_factor"],
            "DeepSeek-V4 scales no attention; only 1 is implemented",
        )
    if "rope_theta" in main:
        values["rope_theta"] = main["rope_theta"]
    if "compress" in parameters and "rope_theta" in compressed:
        values["compress_rope_theta"] = compressed["rope_theta"]
    scaled = compressed.get("rope_type", compressed.get("type", "default")) != "default"
    values.setdefault("rope_scaling", dict(compressed) if scaled else None)
