"""Routed experts under a memory budget: the right bytes, no more slots than paid for, every fault named."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dsv4_model.checkpoint import CheckpointError, open_checkpoint, save_checkpoint
from dsv4_model.config import ModelConfig
from dsv4_model.expert_files import ExpertFiles
from dsv4_model.expert_source import LayerExperts, StreamedSource
from dsv4_model.expert_store import ExpertBudgetError, ExpertStore
from dsv4_model.matrix import MatrixKind
from dsv4_model.weights import ExpertWeights, ModelWeights
from tests.model import tiny

EXPERTS = 8
SLOT = 3 * 64 * 48 + 2 * 64 * 3 + 96 * 2  # packed FP4 and its scales; every part a multiple of 64 bytes


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts") / "m"
    save_checkpoint(tiny.model(with_mtp=True, n_routed_experts=EXPERTS), folder, shard=True)
    return folder


@pytest.fixture
def stores(saved: Path) -> Iterator[Callable[..., ExpertStore]]:
    opened: list[ExpertStore] = []

    def make(slots: float = 4, folder: Path = saved, readers: int = 2) -> ExpertStore:
        checkpoint, config = open_checkpoint(folder), ModelConfig.from_file(folder)
        opened.append(ExpertStore(checkpoint, config, int(slots * SLOT), readers=readers))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture(scope="module")
def truth(saved: Path) -> ModelWeights:
    return ModelWeights.open(saved)


def open_streaming(folder: Path, budget: int) -> tuple[ModelWeights, ExpertStore]:
    source = StreamedSource(open_checkpoint(folder), budget)
    return ModelWeights.open(folder, source=source), source.store


def same(ours: ExpertWeights, theirs: ExpertWeights) -> bool:
    def bits(tensor: Tensor | None) -> Tensor:
        assert tensor is not None
        return tensor.view(torch.uint8)

    pairs = list(zip(ours.matrices, theirs.matrices, strict=True))
    assert all(
        a.kind == b.kind == MatrixKind.FP4 and (a.rows, a.columns) == (b.rows, b.columns) for a, b in pairs
    )
    return all(
        torch.equal(bits(a.data), bits(b.data)) and torch.equal(bits(a.scale), bits(b.scale))
        for a, b in pairs
    )


def test_every_expert_is_what_the_mapping_gives(
    stores: Callable[..., ExpertStore], truth: ModelWeights
) -> None:
    store = stores(slots=2)
    assert (store.slot_bytes, store.capacity, store.layers) == (SLOT, 2, 5)
    for layer, expected in enumerate(truth.all_layers):
        for expert in range(EXPERTS):
            (found,) = store.get(layer, [expert])
            assert same(found, expected.experts[expert])
            store.release(layer, [expert])
    statistics = store.statistics
    assert (statistics.hits, statistics.awaited, statistics.misses) == (0, 0, 5 * EXPERTS)
    assert statistics.evictions == 5 * EXPERTS - 2
    assert statistics.bytes_read == 5 * EXPERTS * SLOT
    assert statistics.waited_s > 0


def test_slots_are_all_the_memory(stores: Callable[..., ExpertStore]) -> None:
    store = stores(slots=3.9)
    assert store.nbytes == 3 * SLOT
    places = set()
    for expert in range(EXPERTS):
        found = store.get(1, [expert])[0]
        places.add(found.w1.data.untyped_storage().data_ptr())
        store.release(1, [expert])
    assert len(places) == 1  # all in the one allocation
    assert stores(slots=1000).capacity == 5 * EXPERTS


def test_a_budget_below_one_token_names_the_least(stores: Callable[..., ExpertStore]) -> None:
    with pytest.raises(ExpertBudgetError, match=f"at least {2 * SLOT:,} bytes") as caught:
        stores(slots=1.99)
    assert caught.value.minimum == 2 * SLOT
    store = stores(slots=2)
    store.capacity = 2**50  # stands for a budget beyond what the system gives
    with pytest.raises(ExpertBudgetError, match="can't be had on cpu"):
        store._allocate()


def test_hot_experts_stay(stores: Callable[..., ExpertStore]) -> None:
    """One expert is asked for all the time, the others once each, as a long prompt does."""
    store = stores(slots=3)
    for _ in range(6):
        store.get(0, [0])
        store.release(0, [0])
    for expert in range(1, EXPERTS):
        for layer in (1, 2):
            store.get(layer, [expert])
            store.release(layer, [expert])
    before = store.statistics.hits
    store.get(0, [0])
    assert store.statistics.hits == before + 1
    assert 0 < store.statistics.hit_rate < 1


def test_what_was_hot_long_ago_makes_room(stores: Callable[..., ExpertStore]) -> None:
    store = stores(slots=2)
    for _ in range(20):
        store.get(0, [0])
        store.release(0, [0])
    for _ in range(200):
        for expert in (1, 2):
            store.get(0, [expert])
            store.release(0, [expert])
    misses = store.statistics.misses
    store.get(0, [1, 2])
    assert store.statistics.misses == misses


def test_pinned_experts_are_not_overwritten(stores: Callable[..., ExpertStore], truth: ModelWeights) -> None:
    store = stores(slots=3)
    kept = store.get(0, [3, 5])
    for expert in range(EXPERTS):
        store.announce(1, [expert])
        store.get(2, [expert])
        store.release(2, [expert])
    assert all(same(a, truth.layers[0].experts[e]) for a, e in zip(kept, (3, 5), strict=True))
    with pytest.raises(
        ExpertBudgetError, match="2 experts are wanted at once, but of 3 slots too few"
    ) as caught:
        store.get(2, [0, 1])
    assert caught.value.minimum == 2 * SLOT
    store.release(0, [3, 5])
    assert len(store.get(2, [0, 1])) == 2


def test_the_same_expert_twice_in_one_request(stores: Callable[..., ExpertStore]) -> None:
    store = stores(slots=2)
    a, b, c = store.get(0, [1, 2, 1])
    assert a is c and a is not b
    store.release(0, [1, 2, 1])
    assert len(store.get(1, [6, 7])) == 2


def test_more_than_fits_comes_in_groups(stores: Callable[..., ExpertStore], truth: ModelWeights) -> None:
    for slots in (2, 3, 5, 9):
        store = stores(slots=slots)
        store.get(1, [6])
        store.release(1, [6])
        seen = []
        for group in store.groups(1, [*range(EXPERTS), 0]):
            assert len(group) <= slots
            for expert, found in group:
                assert same(found, truth.layers[1].experts[expert])
                seen.append(expert)
        assert sorted(seen) == list(range(EXPERTS))
        assert seen[0] == 6  # what is there is used before it can be driven out
        assert store._pins.sum() == 0
        assert store.statistics.bytes_read == EXPERTS * SLOT  # each once
        assert store.statistics.misses <= 1 + slots // 2  # all but the first group were read ahead


def test_groups_shrink_to_what_others_leave(stores: Callable[..., ExpertStore]) -> None:
    store = stores(slots=4)
    store.get(0, [0, 1, 2])
    assert [len(group) for group in store.groups(1, range(3))] == [1, 1, 1]
    store.get(0, [3])
    with pytest.raises(ExpertBudgetError, match="1 experts are wanted"):
        list(store.groups(1, range(3)))


def test_leaving_groups_early_releases(stores: Callable[..., ExpertStore]) -> None:
    store = stores(slots=2)
    for _ in store.groups(0, range(EXPERTS)):
        break
    assert store._pins.sum() == 0


def test_announced_experts_are_there_without_a_miss(stores: Callable[..., ExpertStore]) -> None:
    store = stores(slots=4)
    store.announce(2, [1, 2])
    found = store.get(2, [1, 2])
    assert len(found) == 2
    assert store.statistics.misses == 0
    assert store.statistics.hits + store.statistics.awaited == 2


def test_an_announcement_takes_nothing_from_those_who_use_or_announced(
    stores: Callable[..., ExpertStore],
) -> None:
    store = stores(slots=3)
    store.get(0, [0])
    store.announce(1, range(EXPERTS))  # two of them fit
    store.announce(2, range(EXPERTS))  # none
    assert set(store._where) == {(0, 0), (1, 0), (1, 1)}
    store.release(0, [0])
    for _ in range(store.layers + 1):  # a pass later the promise is void
        store.get(0, [0])
        store.release(0, [0])
    store.announce(3, [5])
    assert (3, 5) in store._where


def test_what_was_asked_for_twice_is_the_guess(stores: Callable[..., ExpertStore]) -> None:
    store = stores()
    experts = LayerExperts(store, 3)
    assert store.likely(3) == ()
    experts.several([4, 1])
    assert store.likely(3) == ()
    experts.several([2, 4])
    assert store.likely(3) == (4,)
    assert store.statistics.misses == 3
    LayerExperts(store, 2).several([0, 1, 2, 3])  # all others make room
    experts.announce_likely()
    experts.announce([7])
    assert experts.several([4, 7]) and store.statistics.misses == 7


def test_leases_end_with_their_last_tensor(stores: Callable[..., ExpertStore], truth: ModelWeights) -> None:
    store = stores(slots=2)
    experts = LayerExperts(store, 1)
    assert len(experts) == EXPERTS
    matrix = experts[-1].w2  # all that is kept of this expert
    for expert in range(EXPERTS):
        assert same(experts[expert], truth.layers[1].experts[expert])
    expected = truth.layers[1].experts[7].w2
    assert torch.equal(matrix.data, expected.data)
    held = experts[2]
    with pytest.raises(ExpertBudgetError):
        experts[3]
    del matrix
    assert same(experts[3], truth.layers[1].experts[3])
    assert same(held, truth.layers[1].experts[2])
    del held
    assert [same(a, b) for a, b in zip(experts[2:4], truth.layers[1].experts[2:4], strict=True)] == [True] * 2
    with pytest.raises(IndexError):
        experts[EXPERTS]


def test_many_threads_at_once(stores: Callable[..., ExpertStore], truth: ModelWeights) -> None:
    store = stores(slots=12, readers=3)

    def work(seed: int) -> int:
        chance = random.Random(seed)
        for _ in range(120):
            layer, wanted = chance.randrange(5), chance.sample(range(EXPERTS), chance.randint(1, 3))
            if chance.random() < 0.5:
                store.announce(chance.randrange(5), chance.sample(range(EXPERTS), 2))
            found = store.get(layer, wanted)
            expected = truth.all_layers[layer].experts
            if not all(same(a, expected[e]) for a, e in zip(found, wanted, strict=True)):
                return 1
            store.release(layer, wanted)
        return 0

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(work, range(3))) == 0
    assert store._pins.sum() == 0
    assert len(store._where) <= store.capacity


def copy(saved: Path, target: Path) -> Path:
    target.mkdir()
    for file in saved.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


SHARD = "model-00003-of-00007.safetensors"  # layer 1


def test_a_file_cut_short_under_the_store(
    saved: Path, tmp_path: Path, stores: Callable[..., ExpertStore]
) -> None:
    store = stores(folder=copy(saved, tmp_path / "m"))
    os.truncate(tmp_path / "m" / SHARD, 20_000)
    store.announce(1, [7])  # never fails
    with pytest.raises(CheckpointError, match=r"in the middle of an expert|has changed since") as caught:
        store.get(1, [6, 7])
    assert caught.value.file == tmp_path / "m" / SHARD and caught.value.remedy
    assert store._pins.sum() == 0 and not store._busy.any()
    assert store.get(2, [6, 7])  # the others still work


def test_a_file_rewritten_under_the_store(
    saved: Path, tmp_path: Path, stores: Callable[..., ExpertStore], truth: ModelWeights
) -> None:
    folder = copy(saved, tmp_path / "m")
    store = stores(folder=folder)
    kept = store.get(1, [0])
    os.utime(folder / SHARD)
    with pytest.raises(CheckpointError, match="has changed since") as caught:
        store.get(1, [1])
    assert "Load the model again" in str(caught.value)
    assert same(kept[0], truth.layers[1].experts[0])


def test_a_file_gone_before_its_first_use(
    saved: Path, tmp_path: Path, stores: Callable[..., ExpertStore]
) -> None:
    folder = copy(saved, tmp_path / "m")
    store = stores(folder=folder)
    (folder / SHARD).unlink()
    with pytest.raises(CheckpointError, match="can't be opened any more") as caught:
        store.get(1, [1])
    assert caught.value.file == folder / SHARD and "Put the file back" in caught.value.remedy


def test_short_reads_are_continued(saved: Path, monkeypatch: pytest.MonkeyPatch, truth: ModelWeights) -> None:
    whole = os.preadv

    def short(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        return whole(descriptor, [buffers[0][: min(len(buffers[0]), 1000)]], offset)

    monkeypatch.setattr(os, "preadv", short)
    files = ExpertFiles(open_checkpoint(saved), ModelConfig.from_file(saved))
    buffer = torch.zeros(files.buffer_bytes, dtype=torch.uint8)
    assert files.read(2, 3, buffer.numpy().data) == SLOT
    assert same(files.weights(2, 3, buffer), truth.layers[2].experts[3])
    files.close()


def test_a_failing_disk_is_a_named_error(
    stores: Callable[..., ExpertStore], monkeypatch: pytest.MonkeyPatch, truth: ModelWeights
) -> None:
    store = stores()

    def broken(*_: object) -> int:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", broken)
        with pytest.raises(CheckpointError, match="Input/output error") as caught:
            store.get(1, [1, 2])
        assert caught.value.tensor is not None
    found = store.get(1, [1, 2])  # a later call tries again
    assert same(found[1], truth.layers[1].experts[2])


def test_a_failed_announcement_is_forgotten(
    stores: Callable[..., ExpertStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stores(readers=1)
    failed = threading.Event()

    def broken(*_: object) -> int:
        failed.set()
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", broken)
        store.announce(1, [1])
        assert failed.wait(20)
        while store._busy.any():
            pass
    assert store.get(1, [1])
    assert store.statistics.misses == 1


def test_what_is_waited_for_is_read_first(
    stores: Callable[..., ExpertStore], monkeypatch: pytest.MonkeyPatch, truth: ModelWeights
) -> None:
    """One reader is held up with the first of many announcements; a request then overtakes the others."""
    store = stores(slots=6, readers=1)
    order: list[tuple[int, int]] = []
    begun, go = threading.Event(), threading.Event()
    read = ExpertFiles.read

    def slow(self: ExpertFiles, layer: int, expert: int, buffer: memoryview) -> int:
        order.append((layer, expert))
        begun.set()
        assert go.wait(20)
        return read(self, layer, expert, buffer)

    monkeypatch.setattr(ExpertFiles, "read", slow)
    store.announce(2, [0, 1, 2, 3, 4, 5])
    assert begun.wait(20)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.get, 1, [7, 6])  # two announcements that haven't begun give way
        late = pool.submit(store.get, 2, [2])  # and this one is hurried
        go.set()
        assert same(waiting.result(20)[0], truth.layers[1].experts[7])
        assert same(late.result(20)[0], truth.layers[2].experts[2])
    while store._busy.any():
        pass
    assert order[:3] == [(2, 0), (1, 7), (1, 6)]
    assert sorted(order[3:]) == [(2, 1), (2, 2), (2, 3)]


def test_closing_ends_what_waits(stores: Callable[..., ExpertStore], monkeypatch: pytest.MonkeyPatch) -> None:
    store = stores(slots=6, readers=1)
    begun, go = threading.Event(), threading.Event()
    read = ExpertFiles.read

    def slow(self: ExpertFiles, layer: int, expert: int, buffer: memoryview) -> int:
        begun.set()
        assert go.wait(20)
        return read(self, layer, expert, buffer)

    monkeypatch.setattr(ExpertFiles, "read", slow)
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(store.get, 1, [7, 6])
        assert begun.wait(20)
        closing = pool.submit(store.close)
        while store._queue._urgent:
            pass
        go.set()
        with pytest.raises(CancelledError):
            waiting.result(20)
        closing.result(20)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_experts(tmp_path: Path, dtype: torch.dtype) -> None:
    save_checkpoint(tiny.model(), tmp_path / "m", quantize=False, dtype=dtype)
    weights, store = open_streaming(tmp_path / "m", 10**6)
    truth = ModelWeights.open(tmp_path / "m")
    with store:
        for ours, theirs in zip(weights.layers[2].experts, truth.layers[2].experts, strict=True):
            for a, b in zip(ours.matrices, theirs.matrices, strict=True):
                assert a.kind == b.kind and torch.equal(a.data, b.data)


def test_half_precision_experts_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tiny.model(), tmp_path / "m", quantize=False, dtype=torch.float16)
    with pytest.raises(
        CheckpointError, match=r"experts\.0\.w1\.weight: is stored as F16 and can't be streamed"
    ):
        open_streaming(tmp_path / "m", 10**9)


def test_the_whole_model_streams_only_experts(saved: Path, truth: ModelWeights) -> None:
    weights, store = open_streaming(saved, 3 * SLOT)
    with store:
        assert store.statistics.bytes_read == 0
        assert weights.mtp is not None
        for ours, theirs in zip(weights.all_layers, truth.all_layers, strict=True):
            assert torch.equal(ours.wq_b.data.view(torch.uint8), theirs.wq_b.data.view(torch.uint8))
            assert all(same(a, b) for a, b in zip(ours.experts, theirs.experts, strict=True))
    with pytest.raises(ExpertBudgetError):
        open_streaming(saved, SLOT)


def test_an_unknown_tensor_is_refused_when_streaming(saved: Path, tmp_path: Path) -> None:
    folder = copy(saved, tmp_path / "m")
    raw = (folder / "config.json").read_text().replace('"n_routed_experts": 8', '"n_routed_experts": 7')
    (folder / "config.json").write_text(raw)
    with pytest.raises(CheckpointError, match="but the model needs"):
        open_streaming(folder, 10 * SLOT)


def test_slots_on_another_device_are_filled_through_staging(saved: Path) -> None:
    """The meta device stands for a GPU: it has shapes and copies, but no bytes to compare."""
    checkpoint, config = open_checkpoint(saved), ModelConfig.from_file(saved)
    with ExpertStore(checkpoint, config, 4 * SLOT, device="meta") as store:
        (found,) = store.get(1, [3])
        (leased,) = store.lease(2, [3])
        assert found.w1.data.device.type == leased.w2.data.device.type == "meta"
        assert (found.w1.kind, found.w1.rows, found.w1.columns) == (MatrixKind.FP4, 64, 96)
        assert store.statistics.bytes_read == 2 * SLOT
