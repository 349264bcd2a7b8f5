"""A model whose layers lie on several devices does what it does on one, bit for bit."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from dsv4_model.batching import Batch
from dsv4_model.cache.formats import CacheFormat
from dsv4_model.cache.layout import CacheLayout
from dsv4_model.checkpoint import save_checkpoint
from dsv4_model.engine import Engine, EngineError, EngineOptions, Sequence
from dsv4_model.expert_source import LayerExperts
from dsv4_model.layer_split import LayerSplitError
from dsv4_model.passes import Stage
from dsv4_model.placement import place, placed_by_name, plan_stages, resident_bytes
from dsv4_model.prefix_store import PrefixStore
from dsv4_model.sampling import SamplingParams
from dsv4_model.weights import ModelWeights, matrices_of
from tests.model import released, tiny
from tests.model.pretended_devices import pretended

TWELVE = SamplingParams(temperature=0.8, seed=5, max_tokens=12, stop_ids=())


def prompt(length: int, seed: int = 0) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(7, 263) for _ in range(length)]


def engine(device: str | None, *, mtp: bool = False, store: PrefixStore | None = None) -> Engine:
    options = EngineOptions(native=False, device=device, store=store, speculate=mtp)
    made = Engine(tiny.model(with_mtp=mtp), tiny.tokenizer(), "tiny", options)
    assert len(made.stages) == (1 if device is None else device.count(",") + 1)
    return made


def ready(sequence: Sequence) -> torch.Tensor:
    assert sequence.ready is not None
    return sequence.ready.cpu()


def assert_same(one: Sequence, other: Sequence) -> None:
    assert one.tokens == other.tokens and one.position == other.position
    assert torch.equal(ready(one), ready(other))
    assert one.usage() == other.usage()


@pytest.mark.parametrize("device", ["cpu,cpu", "cpu,cpu,cpu,cpu"])
def test_prompts_answers_forks_and_rewinds_are_the_same(device: str) -> None:
    pair = [engine(None).sequence(), engine(device).sequence()]
    for sequence in pair:
        sequence.sync(prompt(300))
    assert_same(*pair)
    answers = [list(sequence.generate(TWELVE)) for sequence in pair]
    assert answers[0] == answers[1]
    forks = [sequence.fork() for sequence in pair]
    for sequence, fork in zip(pair, forks, strict=True):
        fork.sync([*fork.tokens, *prompt(140, seed=1)])
        sequence.sync([*sequence.tokens, 9])
    assert_same(*forks)
    assert_same(*pair)
    reports = [sequence.rewind(305) for sequence in pair]
    assert reports[0] == reports[1] and reports[1].restored_from is not None
    assert_same(*pair)
    assert_same(*forks)


def test_drafts_are_made_on_the_last_device() -> None:
    params = SamplingParams(temperature=0, max_tokens=150, stop_ids=())
    found = []
    for device in (None, "cpu,cpu"):
        sequence = engine(device, mtp=True).sequence()
        assert sequence.drafting is not None
        sequence.drafting.adaptive = False
        sequence.sync(prompt(140))
        tokens = list(sequence.generate(params))
        report = sequence.speculation
        assert report is not None and report.checked > 50
        found.append((tokens, report.checked, report.accepted, sequence.usage()))
    assert found[0] == found[1]


def test_sequences_decode_together() -> None:
    prompts = [prompt(n, seed=n) for n in (3, 130, 300)]
    found = []
    for device in (None, "cpu,cpu"):
        made = engine(device)
        batch = Batch(made)
        members = [batch.add(made.sequence(), tokens, TWELVE) for tokens in prompts]
        batch.run()
        found.append([member.sequence.tokens for member in members])
    assert found[0] == found[1]


def test_a_relative_takes_over_pages_on_every_device() -> None:
    made = engine("cpu,cpu")
    first, second = made.sequence(), made.sequence()
    first.sync(prompt(300))
    report = second.sync([*prompt(300), 9, 10])
    assert (report.restored, report.restored_from) == (300, "fork at 300")
    for mine, other in zip(second.cache.parts, first.cache.parts, strict=True):
        assert [id(page) for page in mine.pages] == [id(page) for page in other.pages]


@pytest.mark.parametrize(
    ("writer", "reader"), [("cpu,cpu", None), (None, "cpu,cpu"), ("cpu,cpu,cpu", "cpu,cpu")]
)
def test_states_on_disk_know_nothing_of_the_split(
    tmp_path: Path, writer: str | None, reader: str | None
) -> None:
    store = PrefixStore(tmp_path)
    before = engine(writer, mtp=True, store=store)
    sequence = before.sequence()
    sequence.sync(prompt(450))
    assert before.keep(sequence) == 450
    again = engine(reader, mtp=True, store=store).sequence()
    report = again.sync([*prompt(450), 9, 10])
    assert (report.restored_from, report.prefilled) == ("disk at 450", 2)
    sequence.sync([*prompt(450), 9, 10])
    assert_same(sequence, again)
    assert list(sequence.generate(TWELVE)) == list(again.generate(TWELVE))


def test_a_pass_that_breaks_off_between_devices_leaves_the_state_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, whole = engine("cpu,cpu"), engine(None)
    sequence, other = made.sequence(), whole.sequence()
    sequence.sync(prompt(200))
    other.sync(prompt(200))

    def broken(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(made.passes.stages[-1], "forward", broken)  # type: ignore[attr-defined]
        with pytest.raises(MemoryError):
            sequence.sync(prompt(260))
    assert sequence.position == 200
    for each in (sequence, other):
        each.sync(prompt(260))
    assert_same(sequence, other)


def test_nothing_is_mixed_on_devices_that_are_apart() -> None:
    """Real devices can't be had in a test; these say where their tensors are and refuse a mixture."""
    plain = engine(None, mtp=True).sequence()
    with pretended() as mode:
        with pytest.raises(RuntimeError, match="tensors on"):
            torch.ones(2, device="xpu:0") + torch.ones(2, device="xpu:1")
        split = engine("xpu:0,xpu:1", mtp=True)
        for sequence in (plain, *(sequences := [split.sequence()])):
            assert sequence.drafting is not None
            sequence.drafting.adaptive = False
            sequence.sync(prompt(300))
        (sequence,) = sequences
        devices = [torch.device("xpu:0"), torch.device("xpu:1")]
        assert [part.rings.device for part in sequence.cache.parts] == devices
        assert [part.pages[0].data.device for part in sequence.cache.parts] == devices
        mode.crossings.clear()
        assert list(sequence.generate(TWELVE)) == list(plain.generate(TWELVE))
        forward = mode.crossings.count((devices[0], devices[1]))
        assert forward > 0 and mode.crossings.count((devices[1], devices[0])) == 0
        fork = sequence.fork()
        for each in (fork, plain):
            each.rewind(290)
        assert torch.equal(ready(fork), ready(plain))


@pytest.mark.parametrize("native", [False, None])
def test_experts_in_main_memory_serve_layers_elsewhere(native: bool | None) -> None:
    plain = engine(None, mtp=True).sequence()
    plain.sync(prompt(150))
    with pretended() as mode:
        options = EngineOptions(native=native, device="xpu:0,xpu:1", expert_device="cpu", count_experts=True)
        made = Engine(tiny.model(with_mtp=True), tiny.tokenizer(), "tiny", options)
        layers = made.weights.all_layers
        assert {layer.wq_a.data.device.type for layer in layers} == {"xpu"}
        assert {e.w1.data.device.type for layer in layers for e in layer.experts} == {"cpu"}
        sequence = made.sequence()
        sequence.sync(prompt(100))
        assert made.expert_counts is not None and made.expert_counts[:4].sum() == 100 * 4 * 2
        made.expert_counts = None  # from here on by the native back end, where there is one
        sequence.sync(prompt(150))
        assert mode.crossings.count((torch.device("cpu"), torch.device("xpu:1"))) > 0
        assert torch.allclose(ready(sequence), ready(plain), atol=1e-4, rtol=1e-4)
        expected = list(plain.generate(TWELVE))
        assert list(sequence.generate(TWELVE)) == expected


def test_streamed_experts_serve_layers_elsewhere(tmp_path: Path) -> None:
    save_checkpoint(tiny.model(with_mtp=True), tmp_path / "m", shard=True)
    (tmp_path / "m" / "tokenizer.json").write_text(json.dumps(tiny.tokenizer_definition()))
    found = []
    plain = Engine.load(tmp_path / "m", options=EngineOptions(native=False))
    with pretended():
        budget = 3 * 9792
        options = EngineOptions(device="xpu:0,xpu:1", memory_budget=budget, native=None)
        streamed = Engine.load(tmp_path / "m", options=options)
        assert isinstance(streamed.weights.layers[0].experts, LayerExperts)
        for made in (plain, streamed):
            sequence = made.sequence()
            sequence.sync(prompt(60))
            found.append((ready(sequence), list(sequence.generate(TWELVE))))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-4, rtol=1e-4)
    assert found[0][1] == found[1][1]


def test_gpus_that_are_too_small_share_and_then_leave_experts_in_main_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = ModelWeights.of_module(tiny.model())
    layout = CacheLayout.of(weights.config, CacheFormat.FP32)
    gpus = tuple(torch.device("cuda", number) for number in range(2))
    monkeypatch.setattr("dsv4_model.placement.cuda_devices", lambda: gpus)

    def found(room: int) -> tuple[list[str], set[str], set[str]]:
        monkeypatch.setattr("dsv4_model.placement.rooms", lambda devices: [room] * len(devices))
        moved, stages = placed_by_name(weights, layout, "cuda")
        experts = {e.w1.data.device.type for layer in moved.layers for e in layer.experts}
        dense = {layer.wq_a.data.device.type for layer in moved.layers}
        return [str(stage.device) for stage in stages], dense, experts

    whole = resident_bytes(weights)
    with pretended("cuda"):
        assert found(4 * whole) == (["cuda:0"], {"cuda"}, {"cuda"})
        assert found(whole - 1) == (["cuda:0", "cuda:1"], {"cuda"}, {"cuda"})
        assert found(whole // 2) == (["cuda:0", "cuda:1"], {"cuda"}, {"cpu"})
        with pytest.raises(LayerSplitError):
            found(whole // 20)


def test_every_tensor_ends_on_its_planned_device() -> None:
    """The meta device has shapes and no bytes: what is placed there is there, what isn't is not."""
    weights = ModelWeights.of_module(tiny.model(with_mtp=True))
    meta, cpu = torch.device("meta"), torch.device("cpu")
    stages = (Stage(meta, range(2)), Stage(cpu, range(2, 5)))
    moved = place(weights, stages)
    kinds = [{m.data.device.type for m in matrices_of(layer)} for layer in moved.all_layers]  # type: ignore[arg-type]
    assert kinds == [{"meta"}] * 2 + [{"cpu"}] * 3
    assert moved.embed.data.is_meta and not moved.head.data.is_meta and not moved.norm.is_meta
    assert moved.layers[0].attn_mixing.fn.is_meta and moved.layers[0].tid2eid is not None
    assert moved.layers[0].tid2eid.is_meta
    apart = place(weights, stages, experts=cpu).layers[0]
    assert apart.wq_a.data.is_meta and apart.attn_norm.is_meta
    assert not any(m.data.is_meta for m in (apart.gate, apart.shared.w1, apart.experts[0].w1))


def test_layouts_of_parts_laid_end_to_end_are_the_whole() -> None:
    for config in (tiny.config(), released.flash, released.pro):
        whole = CacheLayout.of(config, CacheFormat.FP8_FP4, with_mtp=True)
        count = len(whole.layers)
        cuts = [0, 1, count // 2, count - 1, count]
        parts = [whole.part(range(a, b)) for a, b in pairwise(cuts)]
        assert sum(part.ring_bytes for part in parts) == whole.ring_bytes
        assert sum(part.page_bytes for part in parts) == whole.page_bytes
        rings = pages = 0
        for part, start in zip(parts, cuts, strict=False):
            for mine, its in zip(part.layers, whole.layers[start:], strict=False):
                assert [r.offset + rings for r in mine.rings] == [r.offset for r in its.rings]
                assert its.entries < 0 or mine.entries + pages == its.entries
                assert its.keys < 0 or mine.keys + pages == its.keys
            rings, pages = rings + part.ring_bytes, pages + part.page_bytes
        usages = [part.ring_bytes_by_kind() for part in parts]
        assert {k: sum(u[k] for u in usages) for k in usages[0]} == whole.ring_bytes_by_kind()


def test_plans_follow_the_room_and_leave_out_what_is_not_needed() -> None:
    weights = ModelWeights.of_module(tiny.model(with_mtp=True))
    layout = CacheLayout.of(weights.config, CacheFormat.FP32, with_mtp=True)
    devices = [torch.device("cpu", n) for n in range(8)]
    stages = plan_stages(weights, layout, devices, [1 << 30] * 8)
    assert len(stages) == 5
    assert [n for stage in stages for n in stage.layers] == [0, 1, 2, 3, 4]
    large = plan_stages(weights, layout, devices[:2], [10 << 20, 5 << 20])
    small = plan_stages(weights, layout, devices[:2], [5 << 20, 10 << 20])
    assert len(large[0].layers) > len(small[0].layers)
    with pytest.raises(LayerSplitError, match="don't fit"):
        plan_stages(weights, layout, devices[:2], [1 << 20, 1 << 20])


def test_devices_that_cannot_be_used_are_named() -> None:
    with pytest.raises(EngineError, match="'nowhere' names no device") as caught:
        engine("cpu,nowhere")
    assert "cuda:0,cuda:1" in caught.value.remedy
    with pytest.raises(EngineError, match="65 devices are named"):
        engine(",".join(["cpu"] * 65))
    with pytest.raises(EngineError, match="can't be put on"):
        engine("cuda:0,cuda:1")
