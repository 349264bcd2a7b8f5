"""Layers over devices: whole, in order, balanced by bytes."""

from __future__ import annotations

from itertools import combinations_with_replacement, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsv4_model.checkpoint import open_checkpoint, save_checkpoint
from dsv4_model.layer_split import LayerSplitError, layer_sizes, split_layers
from tests.model import tiny


def test_equal_layers_on_equal_devices() -> None:
    split = split_layers([10] * 8, [100] * 4)
    assert split.devices == (0, 0, 1, 1, 2, 2, 3, 3)
    assert split.loads == (20, 20, 20, 20)


def test_embedding_and_head_count_where_they_lie() -> None:
    split = split_layers([10] * 6, [100, 100, 100], first=20, last=10)
    assert split.loads == (30, 30, 30)
    assert split.devices == (0, 1, 1, 1, 2, 2)


def test_a_larger_device_takes_more() -> None:
    assert split_layers([10] * 9, [200, 100]).devices == (0,) * 6 + (1,) * 3


def test_more_devices_than_layers() -> None:
    split = split_layers([5], [10, 10, 10], last=9)
    assert sum(split.loads) == 14 and split.loads[2] == 9


def test_what_does_not_fit_names_what_is_missing() -> None:
    with pytest.raises(LayerSplitError, match="3 layers of 30 bytes") as caught:
        split_layers([10, 10, 10], [15, 12])
    assert caught.value.missing == 5 or caught.value.missing == 8
    with pytest.raises(LayerSplitError):
        split_layers([1], [0])
    with pytest.raises(ValueError, match="needs a device"):
        split_layers([1], [])


@given(
    st.lists(st.integers(0, 50), max_size=7),
    st.lists(st.integers(1, 60), min_size=1, max_size=4),
    st.integers(0, 30),
    st.integers(0, 30),
)
def test_no_other_cut_is_better(sizes: list[int], capacities: list[int], first: int, last: int) -> None:
    extra = [0] * len(capacities)
    extra[0] += first
    extra[-1] += last

    def loads(cuts: tuple[int, ...]) -> list[int]:
        return [
            sum(sizes[a:b]) + e for (a, b), e in zip(pairwise((0, *cuts, len(sizes))), extra, strict=True)
        ]

    def worst(held: list[int]) -> float:
        return max(load / room for load, room in zip(held, capacities, strict=True))

    every = combinations_with_replacement(range(len(sizes) + 1), len(capacities) - 1)
    best = min(worst(loads(cuts)) for cuts in every)
    try:
        split = split_layers(sizes, capacities, first=first, last=last)
    except LayerSplitError:
        assert best > 1
        return
    assert worst(list(split.loads)) == best <= 1
    assert list(split.devices) == sorted(split.devices)
    held = [
        sum(s for s, d in zip(sizes, split.devices, strict=True) if d == n) for n in range(len(capacities))
    ]
    assert [h + e for h, e in zip(held, extra, strict=True)] == list(split.loads)


def test_sizes_of_a_checkpoint(tmp_path: Path) -> None:
    model = tiny.model(with_mtp=True)
    save_checkpoint(model, tmp_path / "m", quantize=False)
    sizes = layer_sizes(open_checkpoint(tmp_path / "m").tensors, model.config)
    assert sizes == [sum(t.nbytes for t in layer.state_dict().values()) for layer in model.layers]
    rest = layer_sizes(open_checkpoint(tmp_path / "m").tensors, model.config, experts=False)
    routed = model.config.n_routed_experts * 3 * 64 * 96 * 4
    assert [a - b for a, b in zip(sizes, rest, strict=True)] == [routed] * 4
