"""Drafting changes no token and no state, however many guesses at a time and however many are wrong."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

from dsv4_model.cache.kv_cache import KVCache
from dsv4_model.engine import Engine, EngineOptions, Sequence
from dsv4_model.passes import Passes
from dsv4_model.sampling import SamplingParams
from dsv4_model.speculation import MOST_GUESSES, Speculation
from tests.model import tiny

DEPTHS = range(1, MOST_GUESSES + 1)


def prompt(length: int, seed: int = 0) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(7, 263) for _ in range(length)]


def engine(native: bool | None = None, *, speculate: bool = True, device: str | None = None) -> Engine:
    options = EngineOptions(native=native, speculate=speculate, device=device)
    return Engine(tiny.model(with_mtp=True), tiny.tokenizer(), "tiny", options)


def drafting(made: Engine, guesses: int) -> Sequence:
    sequence = made.sequence()
    assert sequence.drafting is not None
    sequence.drafting.adaptive, sequence.drafting.guesses = False, guesses
    return sequence


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_drafting_changes_no_token(temperature: float) -> None:
    """The draft block is random, so most guesses are wrong and are taken back."""
    params = SamplingParams(temperature=temperature, seed=3, max_tokens=150, stop_ids=())
    found = []
    for guesses in (0, *DEPTHS):
        made = engine(speculate=guesses > 0)
        sequence = drafting(made, guesses) if guesses else made.sequence()
        sequence.sync(prompt(140))
        tokens = list(sequence.generate(params))
        fork = sequence.fork()
        fork.sync([*fork.tokens, 9])
        found.append((tokens, list(fork.generate(params)), sequence.position))
        if sequence.speculation is not None:
            assert sequence.speculation.checked > 50
    assert all(each == found[0] for each in found)


def oracle(answer: list[int], start: int, wrong: float) -> Callable[..., list[int]]:
    """Guesses that are right but for a share of them."""
    chance = random.Random(8)

    def guess(self: Speculation, following: list[int], sampler: object, at: int, count: int) -> list[int]:
        right = answer[at - start :][:count]
        return [token if chance.random() >= wrong else (token + 1) % 200 + 7 for token in right]

    return guess


@pytest.mark.parametrize("wrong", [0.0, 0.4])
@pytest.mark.parametrize("guesses", DEPTHS)
@pytest.mark.parametrize(("native", "device"), [(None, None), (False, None), (False, "cpu,cpu")])
def test_guesses_that_are_partly_right_leave_the_state_of_their_tokens(
    monkeypatch: pytest.MonkeyPatch, native: bool | None, device: str | None, guesses: int, wrong: float
) -> None:
    """Over 140 tokens guesses end blocks and pages, fill rings and are taken back at every place."""
    params = SamplingParams(temperature=0, max_tokens=140, stop_ids=())
    plain = engine(native, speculate=False).sequence()
    plain.sync(prompt(200))
    expected = list(plain.generate(params))
    made = engine(native, device=device)
    sequence = drafting(made, guesses)
    sequence.sync(prompt(200))
    monkeypatch.setattr(Speculation, "guess", oracle(expected, 200, wrong))
    assert list(sequence.generate(params)) == expected
    report = sequence.speculation
    assert report is not None and len(report.by_place) == MOST_GUESSES
    assert [checked > 0 for checked, _ in report.by_place] == [
        place < guesses for place in range(MOST_GUESSES)
    ]
    if wrong:
        assert 0.4 < report.acceptance < 0.8
    else:
        assert report.acceptance == 1.0 and report.accepted >= len(expected) * guesses // (guesses + 1) - 3
    for each in (plain, sequence):
        each.sync([*each.tokens, 9])
    assert plain.ready is not None and sequence.ready is not None
    assert torch.allclose(plain.ready, sequence.ready, atol=1e-4, rtol=1e-4)
    assert plain.usage()["window"] == sequence.usage()["window"]


@pytest.mark.parametrize("guesses", DEPTHS)
def test_what_the_block_saw_of_its_guesses_is_forgotten(guesses: int) -> None:
    """The block's state before and after is the same, so that its next guesses are those of the truth."""
    made = engine()
    sequence, other = drafting(made, guesses), drafting(made, guesses)
    for each in (sequence, other):
        made.resident.clear()  # each computes it, since the block's streams can't be taken over
        each.sync(prompt(150))
    params = SamplingParams(temperature=0, max_tokens=1)
    generation = sequence.begin(params)
    assert sequence.drafting is not None and other.drafting is not None
    following = [9] * (0 if sequence.drafting.streams is None else len(sequence.drafting.streams))
    first = other.drafting.guess(following, generation.sampler, 151, 1)
    many = sequence.drafting.guess(following, generation.sampler, 151, guesses)
    assert len(many) == guesses and many[:1] == first
    assert sequence.cache.draft_position == other.cache.draft_position
    where, at = made.layout.layers[-1].window, sequence.cache.draft_position
    seen = [(position % where.slots) for position in range(at - where.slots + 1, at)]
    rows = [cache.ring(where)[seen] for cache in (sequence.cache, other.cache)]
    assert torch.equal(*rows)


class Ticks:
    """A clock on which a pass of n tokens takes 1 + 0.1 n, and a guess 0.05."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("shares", "best"), [((0.0, 0.0, 0.0), 0), ((0.9, 0.0, 0.0), 1), ((0.9, 0.8, 0.0), 2), ((1, 1, 1), 3)]
)
def test_as_many_guesses_are_made_as_pay(
    monkeypatch: pytest.MonkeyPatch, shares: tuple[float, ...], best: int
) -> None:
    ticks, chance = Ticks(), random.Random(0)
    monkeypatch.setattr("dsv4_model.speculation.time.perf_counter", ticks)
    passes: Passes = tiny.engine().passes
    cache: KVCache = tiny.engine().new_cache()
    speculation = Speculation(passes, cache)
    for _ in range(300):
        guesses, started = speculation.wanted(), ticks.now
        ticks.now += 1.1 + 0.15 * guesses
        speculation.timed(started, guesses=guesses)
        for place in range(guesses):
            right = chance.random() < shares[place]
            speculation.verdict(right)
            if not right:
                break
    report = speculation.report()
    assert (report.guesses, report.active) == (best, best > 0)
