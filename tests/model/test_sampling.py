from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from dsv4_model.sampling import Sampler, SamplingError, SamplingParams

INF = math.inf


def choose(logits: list[float], position: int = 0, allowed: list[int] | None = None, **params: float) -> int:
    sampler = Sampler(SamplingParams(**params), len(logits))  # type: ignore[arg-type]
    return sampler.choose(torch.tensor(logits), position, allowed)


def draws(logits: list[float], count: int = 1500, **params: float) -> Counter[int]:
    sampler = Sampler(SamplingParams(seed=1, **params), len(logits))  # type: ignore[arg-type]
    values = torch.tensor(logits)
    return Counter(sampler.choose(values, position) for position in range(count))


def test_temperature_zero_takes_the_highest_and_of_equals_the_lowest_id() -> None:
    assert choose([0.0, 3.0, 1.0, 3.0], temperature=0) == 1
    assert choose([2.0] * 1000, temperature=0) == 0


def test_frequencies_follow_the_softmax() -> None:
    logits = [math.log(p) for p in (0.5, 0.3, 0.2)]
    found = draws(logits)
    assert all(abs(found[i] / 1500 - p) < 0.05 for i, p in enumerate((0.5, 0.3, 0.2)))


def test_temperature_sharpens() -> None:
    logits = [math.log(p) for p in (0.5, 0.3, 0.2)]
    sharp = 0.5**2 / (0.5**2 + 0.3**2 + 0.2**2)
    assert abs(draws(logits, temperature=0.5)[0] / 1500 - sharp) < 0.05
    assert set(draws([0.0, 0.1], temperature=1e-9)) == {1}


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = [math.log(p) for p in (0.2, 0.5, 0.3)]
    assert set(draws(logits, top_p=0.5)) == {1}
    assert set(draws(logits, top_p=0.51)) == {1, 2}
    assert set(draws(logits, top_p=0.0)) == {1}
    assert set(draws(logits)) == {0, 1, 2}


def test_top_p_among_equals_keeps_the_lowest_ids() -> None:
    assert set(draws([0.0] * 4, top_p=0.5)) == {0, 1}


def test_min_p_is_relative_to_the_most_probable() -> None:
    logits = [math.log(p) for p in (0.6, 0.3, 0.1)]
    assert set(draws(logits, min_p=0.4)) == {0, 1}
    assert set(draws(logits, min_p=1.0)) == {0}


def test_top_k_keeps_the_most_probable() -> None:
    logits = [math.log(p) for p in (0.2, 0.5, 0.3)]
    assert set(draws(logits, top_k=1)) == {1}
    assert set(draws(logits, top_k=2)) == {1, 2}
    assert set(draws(logits, top_k=9)) == {0, 1, 2}
    with pytest.raises(SamplingError, match="top_k is -1"):
        SamplingParams(top_k=-1)


def test_a_seed_reproduces_and_another_differs() -> None:
    logits = torch.zeros(1000)

    def series(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingParams(seed=seed), 1000)
        return [sampler.choose(logits, position) for position in range(20)]

    assert series(7) == series(7)
    assert series(7) != series(8)
    assert series(None) != series(None)
    assert len(set(series(7))) > 15


def test_the_global_generator_is_neither_used_nor_moved() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = choose([0.0] * 500, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert choose([0.0] * 500, seed=5) == first


def test_only_allowed_ids_are_chosen() -> None:
    logits = [5.0, 1.0, 0.0, 4.0]
    assert choose(logits, allowed=[1, 2], temperature=0) == 1
    sampler = Sampler(SamplingParams(seed=0), 4)
    assert {sampler.choose(torch.tensor(logits), p, [1, 2]) for p in range(200)} == {1, 2}


def test_ids_beyond_the_tokenizer_are_never_chosen() -> None:
    sampler = Sampler(SamplingParams(temperature=0), 3)
    assert sampler.choose(torch.tensor([0.0, 1.0, 0.0, 99.0]), 0) == 1


@pytest.mark.parametrize("bad", [math.nan, INF])
def test_unusable_logits_are_named(bad: float) -> None:
    with pytest.raises(SamplingError, match="NaN or infinite logits at token 12") as caught:
        choose([0.0, bad, 1.0], position=12)
    assert "checkpoint" in caught.value.remedy


def test_some_impossible_tokens_are_fine_but_not_all() -> None:
    assert choose([-INF, 0.0, -INF]) == 1
    with pytest.raises(SamplingError, match="No token has a finite logit"):
        choose([-INF, -INF])
    with pytest.raises(SamplingError, match="No token has a finite logit"):
        choose([-INF, 0.0], allowed=[0])


@pytest.mark.parametrize("allowed", [[], [99, -1]])
def test_a_constraint_that_allows_nothing_is_named(allowed: list[int]) -> None:
    with pytest.raises(SamplingError, match="allows no token"):
        choose([0.0, 1.0], allowed=allowed)


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": INF},
        {"top_p": 1.1},
        {"min_p": -1.0},
        {"max_tokens": 0},
        {"thinking_budget": -1},
    ],
)
def test_parameters_out_of_range_are_named(params: dict[str, float]) -> None:
    with pytest.raises(SamplingError, match=next(iter(params))):
        SamplingParams(**params)  # type: ignore[arg-type]


def test_extreme_logits_do_not_overflow() -> None:
    extreme: Tensor = torch.tensor([3e38, -3e38, 3e38])
    sampler = Sampler(SamplingParams(temperature=1e-3, seed=0), 3)
    assert {sampler.choose(extreme, p) for p in range(50)} == {0, 2}
