"""Bytes, sharing and exactness of the paged cache."""

from __future__ import annotations

import pytest
import torch

from dsv4_model.accounting import kv_bytes
from dsv4_model.cache.formats import CacheFormat, KeyFormat, RowFormat, Storage
from dsv4_model.cache.kv_cache import KVCache
from dsv4_model.cache.layout import CacheLayout
from dsv4_model.cache.pages import CacheMemoryError, PagePool
from dsv4_model.config import ConfigError, ModelConfig
from dsv4_model.quantization import fp4_round_trip, fp8_round_trip
from tests.model import tiny
from tests.model.released import FLASH, PRO

MILLION = 1_048_576
KINDS = ("window", "csa_entries", "hca_entries", "index_keys")


def counted(config: ModelConfig, choice: CacheFormat, tokens: int) -> dict[str, int]:
    """What a cache filled with ``tokens`` holds, allocated at full shape without memory."""
    layout = CacheLayout.of(config, choice)
    cache = KVCache(layout, PagePool(layout.page_bytes, "meta"))
    cache.prepare(tokens)
    cache.advance(tokens)
    return cache.usage()


@pytest.mark.parametrize("tokens", [131_072, 262_144, MILLION])
def test_the_bytes_held_are_those_of_the_arithmetic(tokens: int) -> None:
    for raw, per_token in ((FLASH, 3514.25), (PRO, 5031.4375)):
        config = ModelConfig.from_dict(raw)
        usage = counted(config, CacheFormat.FP8_FP4, tokens)
        windows = config.num_hidden_layers * 128 * 584
        assert sum(usage[kind] for kind in KINDS) == windows + per_token * tokens
        for choice in CacheFormat:
            usage = counted(config, choice, tokens)
            expected = kv_bytes(config, tokens, choice)
            for kind in (*KINDS, "partial"):
                assert usage[kind] == getattr(expected, kind)


def test_a_row_of_the_released_shape_is_584_bytes_and_a_key_68() -> None:
    assert RowFormat(Storage.FP8, 512, 64).nbytes == 584
    assert KeyFormat(Storage.FP4, 128).nbytes == 32 * 68
    assert KeyFormat(Storage.FP8, 128).nbytes == 32 * 132


def test_rows_keep_their_rotary_channels_and_round_the_others_as_the_training_did() -> None:
    rows = torch.randn(9, 192) * torch.logspace(-6, 4, 9).unsqueeze(1)
    format = RowFormat(Storage.FP8, 192, 64)
    decoded = format.decode(format.encode(rows))
    assert torch.equal(decoded[:, :128], fp8_round_trip(rows[:, :128], 64))
    assert torch.equal(decoded[:, 128:], rows[:, 128:].bfloat16().float())


def test_keys_survive_their_block_layout() -> None:
    keys = torch.randn(3, 32, 64)
    assert torch.equal(decoded(Storage.FP32, keys), keys)
    assert torch.equal(decoded(Storage.BF16, keys), keys.bfloat16().float())
    assert torch.equal(decoded(Storage.FP8, keys), fp8_round_trip(keys, 64))
    assert torch.equal(decoded(Storage.FP4, keys), fp4_round_trip(keys))


def decoded(storage: Storage, keys: torch.Tensor) -> torch.Tensor:
    format = KeyFormat(storage, keys.shape[-1])
    stored = format.encode(keys)
    assert stored.shape[1] == format.nbytes
    return format.decode(stored)


def test_shapes_that_a_format_cannot_hold_are_named() -> None:
    with pytest.raises(ConfigError, match="index_head_dim"):
        CacheLayout.of(tiny.config(index_head_dim=48), CacheFormat.FP8_FP4)
    with pytest.raises(ConfigError, match=r"compress_ratios\[2\]"):
        CacheLayout.of(tiny.config(compress_ratios=[0, 4, 100, 4]), CacheFormat.FP32)


def cache() -> KVCache:
    layout = CacheLayout.of(tiny.config(), CacheFormat.FP8_FP4)
    return KVCache(layout, PagePool(layout.page_bytes))


def filled(cache: KVCache, count: int) -> None:
    cache.prepare(count)
    cache.advance(count)


def test_forks_share_whole_pages_and_copy_an_unfinished_one_when_they_part() -> None:
    origin = cache()
    filled(origin, 300)
    fork = origin.fork()
    assert [id(page) for page in fork.pages] == [id(page) for page in origin.pages]
    filled(origin, 10)  # goes on in place: nobody has come further
    assert origin.pages[2] is fork.pages[2]
    filled(fork, 10)  # must not write where the origin has written
    assert fork.pages[:2] == origin.pages[:2]
    assert fork.pages[2] is not origin.pages[2]
    assert fork.table[2] == fork.pages[2].data.data_ptr()


def test_taking_back_makes_room_for_the_same_writer() -> None:
    one = cache()
    filled(one, 127)
    filled(one, 2)
    one.retreat(2)
    assert one.position == 127 and one.pages[0].filled == 127
    page = one.pages[0]
    filled(one, 2)
    assert one.pages[0] is page and page.filled == 128


def test_memory_of_pages_returns_to_the_pool_zeroed() -> None:
    one = cache()
    filled(one, 200)
    one.pages[0].data.fill_(7)
    address = one.pages[0].data.data_ptr()
    pool = one.pool
    del one
    taken = [pool.take() for _ in range(2)]
    assert address in [page.data.data_ptr() for page in taken]
    assert all(not bool(page.data.any()) for page in taken)


def test_no_memory_is_a_named_error_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    one = cache()
    filled(one, 100)

    def refuse(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: not enough memory")

    monkeypatch.setattr("dsv4_model.cache.pages.zeroed", refuse)
    with pytest.raises(CacheMemoryError, match="no memory"):
        one.prepare(1_000_000_000)
    assert one.position == 100 and len(one.pages) == 1
