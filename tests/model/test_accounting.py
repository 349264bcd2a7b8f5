"""The published figures, from the configuration alone."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dsv4_model import accounting
from dsv4_model.accounting import CacheFormat, Component
from dsv4_model.config import ModelConfig
from dsv4_model.nano import WEIGHTS
from dsv4_model.stored_size import StoredSizeError, read_stored_weights
from tests.fixtures_path import SHARED
from tests.model.released import FLASH_0731, FLASH_INFERENCE, flash, pro

NANO = ModelConfig.from_file(WEIGHTS)
COARSE = CacheFormat.FP8_FP4


def test_nothing_needs_torch() -> None:
    code = (
        "import sys, dsv4_model.accounting, dsv4_model.fit, dsv4_model.stored_size;"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bytes_of_an_entry() -> None:
    sizes = [accounting.main_entry_bytes(flash, cache) for cache in CacheFormat]
    assert sizes == [2048, 1024, 584, 584]
    assert [accounting.index_key_bytes(flash, cache) for cache in CacheFormat] == [512, 256, 132, 68]
    assert accounting.main_entry_bytes(NANO, CacheFormat.FP8) == 264
    assert accounting.index_key_bytes(NANO, COARSE) == 34


def test_marginal_bytes_per_token() -> None:
    def both(cache: CacheFormat) -> tuple[float, float]:
        return accounting.bytes_per_token(flash, cache), accounting.bytes_per_token(pro, cache)

    assert both(CacheFormat.FP8_FP4) == (3514.25, 5031.4375)
    assert both(CacheFormat.FP8) == (3850.25, 5511.4375)
    assert both(CacheFormat.BF16) == (6880, 9848)
    assert both(CacheFormat.FP32) == (2 * 6880, 2 * 9848)


def test_baselines() -> None:
    assert accounting.V32_BYTES_PER_TOKEN == 48_068
    assert accounting.gqa8_bytes_per_token() == 249_856
    assert accounting.gqa8_bytes_per_token(43) == 176_128


@pytest.mark.parametrize(
    ("tokens", "sizes", "of_v32", "of_gqa8"),
    [
        (131_072, (463_834_112, 664_040_448), (7.36, 10.54), (1.42, 2.03)),
        (262_144, (924_453_888, 1_323_521_024), (7.34, 10.50), (1.41, 2.02)),
        (1_000_000, (3_517_458_496, 5_035_988_320), (7.32, 10.48), (1.41, 2.02)),
        (1_048_576, (3_688_172_544, 5_280_404_480), (7.32, 10.48), (1.41, 2.02)),
    ],
)
def test_the_table_of_the_report(
    tokens: int, sizes: tuple[int, int], of_v32: tuple[float, float], of_gqa8: tuple[float, float]
) -> None:
    for config, size, v32, gqa8 in zip((flash, pro), sizes, of_v32, of_gqa8, strict=True):
        total = accounting.kv_bytes(config, tokens, COARSE).total
        assert total == size
        assert round(100 * total / (accounting.V32_BYTES_PER_TOKEN * tokens), 2) == v32
        assert round(100 * total / (accounting.gqa8_bytes_per_token() * tokens), 2) == gqa8


def test_the_dossiers_own_formula() -> None:
    def formula(ratios: tuple[int, ...], n: int) -> int:
        return sum(128 * 584 + (n // r * 584 if r else 0) + (n // r * 68 if r == 4 else 0) for r in ratios)

    for n in (0, 1, 3, 4, 127, 128, 129, 4095, 99_999):
        for config in (flash, pro):
            expected = formula(config.compress_ratios[: config.num_hidden_layers], n)
            assert accounting.kv_bytes(config, n, COARSE).total == expected


def test_kinds_and_what_is_counted_apart() -> None:
    kv = accounting.kv_bytes(flash, 131_072, COARSE)
    assert kv.by_kind() == {
        "window": 43 * 128 * 584,
        "csa_entries": 21 * 32_768 * 584,
        "hca_entries": 20 * 1024 * 584,
        "index_keys": 21 * 32_768 * 68,
    }
    assert kv.partial == 20 * 128 * 512 * 2 * 4 + 21 * 8 * (1024 + 256) * 2 * 4 == 12_206_080
    assert kv.held == kv.total + kv.partial
    assert accounting.kv_bytes(pro, 1, CacheFormat.BF16).partial == 18_710_528  # fp32 in every format


def test_bytes_of_a_restart_point() -> None:
    assert accounting.restart_point_bytes(flash, COARSE) == 43 * 128 * 584 + 21 * 20_480 == 3_644_416
    assert accounting.restart_point_bytes(pro, COARSE) == 5_174_272


@pytest.mark.parametrize("cache", list(CacheFormat))
@pytest.mark.parametrize("config", [flash, pro, NANO], ids=["flash", "pro", "nano"])
def test_the_engines_cache_is_as_large(config: ModelConfig, cache: CacheFormat) -> None:
    pytest.importorskip("torch", reason="needs the local extra")
    from dsv4_model.cache import formats
    from dsv4_model.cache.layout import CacheLayout

    layout = CacheLayout.of(config, formats.CacheFormat(cache.value))
    kv = accounting.kv_bytes(config, 10 * formats.PAGE_TOKENS, cache)
    rings, page = layout.ring_bytes_by_kind(), layout.page_bytes_by_kind()
    assert kv.by_kind() == {"window": rings["window"], **{kind: 10 * size for kind, size in page.items()}}
    assert kv.partial == rings["partial"]


def test_numbers_of_parameters() -> None:
    assert accounting.parameters(flash).total == 284_332_240_471
    assert accounting.parameters(pro).total == 1_572_997_201_763
    assert round(accounting.parameters(flash).active / 1e9, 2) == 13.27
    assert round(accounting.parameters(pro).active / 1e9, 2) == 48.85


def test_bytes_of_the_released_checkpoints() -> None:
    assert sum(accounting.weight_bytes(flash).values()) == 159_609_485_896
    assert sum(accounting.weight_bytes(pro).values()) == 864_704_792_696
    assert accounting.weight_bytes(flash)[Component.MTP] == 3_593_787_756
    assert accounting.weight_bytes(pro)[Component.MTP] == 13_956_587_692
    assert (accounting.tensor_count(flash), accounting.tensor_count(pro)) == (69_187, 145_116)


def test_draft_stages_of_0731() -> None:
    config = ModelConfig.from_dict(FLASH_0731)
    assert sum(accounting.weight_bytes(config).values()) == 166_878_536_440
    assert accounting.tensor_count(config) == 72_317
    assert accounting.parameters(config).total == accounting.parameters(flash).total


def test_the_reference_runners_key_style() -> None:
    config = ModelConfig.from_dict(FLASH_INFERENCE)
    assert accounting.weight_bytes(config) == accounting.weight_bytes(flash)
    assert accounting.flops_per_token(config, 5000) == accounting.flops_per_token(flash, 5000)


def test_other_precisions() -> None:
    plain = replace(flash, quantization_config=None, expert_dtype=None)
    sizes = accounting.weight_bytes(plain)
    assert round(sum(sizes.values()) - sizes[Component.MTP], -9) == 569_000_000_000  # published for bf16
    assert sizes[Component.DENSE_FP8] == 0
    wide = accounting.weight_bytes(replace(plain, torch_dtype="float32"))
    assert wide[Component.BF16] == 0
    assert wide[Component.ROUTED_EXPERTS] == 2 * sizes[Component.ROUTED_EXPERTS]
    base = accounting.weight_bytes(replace(flash, expert_dtype="fp8"))
    values = 43 * 256 * 3 * 4096 * 2048
    assert base[Component.ROUTED_EXPERTS] == values + values // 128**2


def test_bytes_read_for_a_token() -> None:
    for config, dense, experts, bf16, fp32, total in (
        (flash, 5.86, 3.45, 1.77, 0.14, 11.2),
        (pro, 22.70, 12.84, 3.77, 0.35, 39.7),
    ):
        read = accounting.weight_bytes_per_token(config)
        assert round(read[Component.DENSE_FP8] / 1e9, 2) == dense
        assert round(read[Component.ROUTED_EXPERTS] / 1e9, 2) == experts
        assert round(read[Component.BF16] / 1e9, 2) == bf16
        assert round(read[Component.FP32] / 1e9, 2) == fp32
        assert round(sum(read.values()) / 1e9, 1) == total


def test_bytes_of_an_expert() -> None:
    assert accounting.expert_bytes(flash) == 13_369_344
    assert accounting.expert_bytes(pro) == 35_094_528


def test_nanos_file_is_as_large_as_computed() -> None:
    stored = read_stored_weights(WEIGHTS)
    assert stored is not None and stored.complete
    assert stored.sizes == accounting.weight_bytes(NANO)


@pytest.mark.parametrize(
    ("tokens", "of_flash", "of_pro"),
    [
        (1_000_000, (26.5, 22.6, 86.0, 135.2, 12.2, 10.0), (97.7, 73.6, 122.9, 294.2, 26.5, 26.8)),
        (262_144, (26.5, 7.5, 22.5, 56.6, 15.2, 13.0), (97.7, 26.7, 32.2, 156.7, 42.1, 41.2)),
        (131_072, (26.5, 4.8, 11.3, 42.6, 17.7, 15.2), (97.7, 18.4, 16.1, 132.2, 54.9, 51.8)),
    ],
)
def test_flops_of_a_token(tokens: int, of_flash: tuple[float, ...], of_pro: tuple[float, ...]) -> None:
    v32 = accounting.flops_per_token_v32(tokens)
    for config, expected in ((flash, of_flash), (pro, of_pro)):
        flops = accounting.flops_per_token(config, tokens)
        parts = (flops.linear, flops.attention_core, flops.indexer, flops.total)
        shares = (flops.total / v32.total, flops.fp8_equivalent / v32.fp8_equivalent)
        assert (*(round(p / 1e9, 1) for p in parts), *(round(100 * s, 1) for s in shares)) == expected


def test_flops_of_v32() -> None:
    flops = accounting.flops_per_token_v32(1_000_000)
    assert [round(part / 1e9, 1) for part in (flops.linear, flops.attention_core, flops.indexer)] == [
        75.0,
        34.8,
        999.4,
    ]
    assert round(flops.total / 1e9) == 1109
    assert round(flops.fp8_equivalent / 1e9) == 1144


@pytest.mark.parametrize("tokens", [1, 3, 4, 127, 128, 129, 1023, 4096, 5000])
def test_prefill_is_the_sum_of_its_tokens(tokens: int) -> None:
    each = [accounting.flops_per_token(NANO, n) for n in range(1, tokens + 1)]
    whole = accounting.prefill_flops(NANO, tokens)
    assert whole.attention_core == sum(flops.attention_core for flops in each)
    assert whole.indexer == sum(flops.indexer for flops in each)
    head = 2 * NANO.vocab_size * NANO.hidden_size
    assert whole.linear == sum(flops.linear for flops in each) - (tokens - 1) * head
    assert accounting.prefill_flops(NANO, 0).total == 0


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("DeepSeek-V4-Flash.config.assembled", 159_609_485_896),
        ("DeepSeek-V4-Flash.inference-config", 159_609_485_896),
        ("DeepSeek-V4-Flash-0731.config", 166_878_536_440),
        ("DeepSeek-V4-Pro.config", 864_704_792_696),
        ("DeepSeek-V4-Pro.inference-config", 864_704_792_696),
    ],
)
def test_the_released_files(name: str, total: int) -> None:
    if SHARED is None:
        pytest.skip("the shared fixtures are not on this machine")
    config = ModelConfig.from_file(SHARED / "configs" / f"{name}.json")
    assert sum(accounting.weight_bytes(config).values()) == total


def test_weights_that_are_not_all_there(tmp_path: Path) -> None:
    assert read_stored_weights(tmp_path) is None
    whole = (WEIGHTS / "model.safetensors").read_bytes()
    file = tmp_path / "model.safetensors"
    file.write_bytes(whole[:-1])
    cut = read_stored_weights(tmp_path)
    assert cut is not None and cut.missing == ("model.safetensors",)
    file.write_bytes(whole)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}')
    half = read_stored_weights(tmp_path)
    assert half is not None and half.missing == ("model-2.safetensors",) and half.files == 2
    file.unlink()
    assert read_stored_weights(tmp_path) is None


@pytest.mark.parametrize(
    "header",
    [b"{", b"[1, 2]", b'{"a": 1}', b'{"a": {"dtype": "F32", "data_offsets": [4, 0]}}', b"[" * 100_000],
)
def test_a_damaged_weight_file_is_named(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(StoredSizeError, match=r"model\.safetensors"):
        read_stored_weights(tmp_path)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"weight_map": 1}', '{"weight_map": {"a": "../b"}}', '{"weight_map": {"a": 1}}']
)
def test_a_damaged_index_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(StoredSizeError, match=r"index\.json"):
        read_stored_weights(tmp_path)
