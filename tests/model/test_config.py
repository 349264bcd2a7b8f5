"""Reading configurations: every published one, both key styles, and what is refused with which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dsv4_model.config import AttentionKind, ConfigError, ModelConfig
from tests.fixtures_path import SHARED
from tests.model.random_model import TINY

needs_fixtures = pytest.mark.skipif(SHARED is None, reason="shared fixtures are not present")


def official(name: str) -> ModelConfig:
    assert SHARED is not None
    return ModelConfig.from_file(SHARED / "configs" / name)


@needs_fixtures
@pytest.mark.parametrize(
    ("name", "layers", "counts", "draft", "dspark"),
    [
        ("DeepSeek-V4-Flash-0731.config.json", 43, (2, 21, 20), 1, True),
        ("DeepSeek-V4-Flash.config.assembled.json", 43, (2, 21, 20), 1, False),
        ("DeepSeek-V4-Flash.inference-config.json", 43, (2, 21, 20), 1, False),
        ("DeepSeek-V4-Pro.config.json", 61, (0, 30, 31), 1, False),
        ("DeepSeek-V4-Pro.inference-config.json", 61, (0, 30, 31), 1, False),
    ],
)
def test_published_configurations(
    name: str, layers: int, counts: tuple[int, int, int], draft: int, dspark: bool
) -> None:
    config = official(name)
    kinds = [config.kind(n) for n in range(config.num_hidden_layers)]
    assert config.num_hidden_layers == layers
    assert tuple(kinds.count(k) for k in AttentionKind) == counts
    assert (config.num_nextn_predict_layers, config.has_dspark) == (draft, dspark)
    assert config.rope_scaling is not None and config.rope_scaling.factor == 16
    assert (config.head_dim, config.qk_rope_head_dim, config.compress_rope_theta) == (512, 64, 160000)


@needs_fixtures
@pytest.mark.parametrize("family", ["Flash", "Pro"])
def test_both_key_styles_describe_the_same_model(family: str) -> None:
    name = "DeepSeek-V4-Flash.config.assembled" if family == "Flash" else "DeepSeek-V4-Pro.config"
    one = official(f"{name}.json").to_dict()
    other = official(f"DeepSeek-V4-{family}.inference-config.json").to_dict()
    one.pop("quantization_config")
    assert one == other


@needs_fixtures
def test_v41_is_refused_as_another_architecture() -> None:
    with pytest.raises(ConfigError, match="different architecture"):
        official("DeepSeek-V4.1-Flash.text_config.secondhand.json")


@needs_fixtures
def test_a_generation_config_is_not_a_model_config() -> None:
    with pytest.raises(ConfigError, match=r"'vocab_size'.*required"):
        official("DeepSeek-V4-Pro.generation_config.json")


def test_round_trip_through_json(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY.to_dict()), encoding="utf-8")
    assert ModelConfig.from_file(tmp_path) == TINY


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"model_type": "llama"}, "model_type"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": "48"}, "hidden_size"),
        ({"vocab_size": None}, "vocab_size"),
        ({"compress_ratios": [0, 4]}, "compress_ratios"),
        ({"compress_ratios": "0,4,8"}, "compress_ratios"),
        ({"compress_ratios": [0, 4, 8, 1, 0]}, "compress_ratios[3]"),
        ({"qk_rope_head_dim": 15}, "qk_rope_head_dim"),
        ({"head_dim": 8}, "head_dim"),
        ({"index_head_dim": 8}, "index_head_dim"),
        ({"o_groups": 3}, "o_groups"),
        ({"num_experts_per_tok": 7}, "num_experts_per_tok"),
        ({"scoring_func": "sigmoid"}, "scoring_func"),
        ({"num_key_value_heads": 2}, "num_key_value_heads"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling.type"),
        ({"rope_scaling": {"type": "yarn", "factor": "x"}}, "rope_scaling.factor"),
        ({"rope_scaling": [1]}, "rope_scaling"),
        ({"rms_norm_eps": 0}, "rms_norm_eps"),
        ({"num_hash_layers": -1}, "num_hash_layers"),
        ({"index_topk": 2**31}, "index_topk"),
        ({"sliding_window": 10**30}, "sliding_window"),
        ({"rope_theta": 10**100}, "rope_theta"),
        ({"compress_rope_theta": 1}, "compress_rope_theta"),
        ({"rope_scaling": {"type": "yarn", "beta_fast": float("inf")}}, "rope_scaling.beta_fast"),
        ({"rope_scaling": {"type": "yarn", "beta_slow": float("nan")}}, "rope_scaling.beta_slow"),
        ({"swiglu_limit": None}, "swiglu_limit"),
        ({"quantization_config": "fp8"}, "quantization_config"),
        ({"expert_dtype": "int3"}, "expert_dtype"),
        ({"engram_layer_ids": [1]}, "model_type"),
    ],
)
def test_bad_values_name_key_value_and_remedy(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_dict(TINY.to_dict() | changes)
    assert caught.value.key == key
    assert repr(key) in str(caught.value) and repr(caught.value.value) in str(caught.value)
    assert len(caught.value.remedy) > 10


@pytest.mark.parametrize("content", ["{", "[1]", '{"a":' * 100_000, None])
def test_unreadable_files(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.json"):
        ModelConfig.from_file(path)
