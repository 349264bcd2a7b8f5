"""Which points are kept, what each copies, and how much going back to any token computes anew."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch

from dsv4_model.boundaries import BUDGET, LEAST_KEPT, MILESTONE_EVERY, MOST_KEPT, Boundaries
from dsv4_model.cache.formats import CacheFormat
from dsv4_model.cache.kv_cache import Boundary, Held, KVCache
from dsv4_model.cache.layout import CacheLayout
from dsv4_model.cache.pages import PagePool
from dsv4_model.cache.ring_copy import copied_bytes
from dsv4_model.engine import Engine, EngineOptions
from dsv4_model.passes import Piece, Rows
from dsv4_model.sampling import SamplingParams
from dsv4_model.sequence import PREFILL_CHUNK
from dsv4_model.token_prefix import common_prefix
from tests.model import released, tiny

NOTHING = torch.empty(0)


def prompt(length: int, seed: int = 0) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(7, 263) for _ in range(length)]


def point(position: int, nbytes: int = 0) -> Boundary:
    rings = torch.empty(nbytes, dtype=torch.uint8, device="meta")
    return Boundary(position, 0, (Held((), rings),), NOTHING)


def filled(length: int, every: int, nbytes: int = 0) -> list[int]:
    kept = Boundaries()
    for position in range(every, length + 1, every):
        assert kept.wants_milestone(position)
        kept.add(point(position, nbytes), asked_for=False)
    return [boundary.position for boundary in kept]


@pytest.mark.parametrize("length", [4_096, 65_536, 1_048_576])
def test_gaps_grow_with_the_distance_from_the_end(length: int) -> None:
    """Going back by n tokens replays less than half of n, or one milestone."""
    positions = filled(length, MILESTONE_EVERY)
    assert len(positions) <= MOST_KEPT
    assert positions[0] == MILESTONE_EVERY and positions[-1] == length
    for before, after in pairwise(positions[1:]):
        assert after - before <= max(MILESTONE_EVERY, 0.5 * (length - before))


def test_the_budget_counts_bytes_and_leaves_the_least() -> None:
    large = BUDGET // 24
    assert LEAST_KEPT < len(filled(65_536, 128, large)) <= 24
    assert len(filled(65_536, 128, BUDGET)) == LEAST_KEPT


def test_what_was_asked_for_stays_longer_than_milestones() -> None:
    kept = Boundaries()
    asked = set(range(1_000, 9_000, 1_000))
    for position in sorted({*asked, *range(128, 10_000, 128)}):
        kept.add(point(position), asked_for=position in asked)
    positions = {boundary.position for boundary in kept}
    assert asked <= positions and len(positions) == MOST_KEPT
    assert kept.ask_for(9_984) and not kept.ask_for(9_983)


def test_a_fork_s_points_are_its_own() -> None:
    kept = Boundaries()
    kept.add(point(10), asked_for=False)
    twin = kept.copy()
    twin.ask_for(10)
    twin.add(point(20))
    assert len(kept) == 1 and len(twin) == 2
    twin.drop_after(10)
    twin.add(point(10, 5))
    assert [boundary.nbytes for boundary in twin] == [5]


@pytest.mark.parametrize("choice", list(CacheFormat))
def test_rings_are_copied_as_far_as_they_are_alive(choice: CacheFormat) -> None:
    for config in (released.flash, released.pro):
        layout = CacheLayout.of(config, choice, with_mtp=True)
        sizes = [copied_bytes(layout, position) for position in (0, 1, 127, 128, 129, 1024, 1151)]
        assert sizes[0] == 0 and sizes == sorted(sizes[:3]) + sizes[3:]
        hca = sum(2 * layer.ratio * 512 * 4 for layer in layout.layers if layer.ratio == 128)
        assert sizes[3] == sizes[5] == layout.ring_bytes - hca
        assert sizes[6] == layout.ring_bytes - hca // 128


def test_a_point_of_flash_at_the_end_of_a_page_is_a_third_of_its_rings() -> None:
    layout = CacheLayout.of(released.flash, CacheFormat.FP8_FP4, with_mtp=True)
    assert layout.ring_bytes == 15_495_168 and copied_bytes(layout, 128_000) == 5_009_408


@pytest.mark.parametrize("native", [False, None])
@pytest.mark.parametrize("position", [1, 15, 100, 127, 128, 129, 256, 300])
def test_what_is_not_copied_is_never_read(native: bool | None, position: int) -> None:
    """A cache full of another's rows goes on from a boundary as the one that it was taken of."""
    engine = Engine(tiny.module(), tiny.tokenizer(), "tiny", EngineOptions(native=native))
    tokens, found = prompt(position + 140), []
    one, other = engine.new_cache(), KVCache(engine.layout, PagePool(engine.layout.page_bytes))
    one.prepare(position)
    engine.forward([Piece(one, tokens[:position])])
    boundary = one.boundary(NOTHING)
    other.rings.fill_(77)
    other.restore(boundary)
    for cache in (one, other):
        cache.prepare(140)
        found.append(engine.forward([Piece(cache, tokens[position:], Rows.ALL)])[0])
    assert torch.equal(*found)


def test_going_back_into_an_answer_or_a_prompt_replays_little() -> None:
    sequence = tiny.engine().sequence()
    sequence.sync(prompt(PREFILL_CHUNK + 100))
    list(sequence.generate(SamplingParams(temperature=0, max_tokens=80, stop_ids=())))
    tokens = list(sequence.tokens)
    within = [sequence.fork().rewind(position).prefilled for position in range(513, len(tokens), 7)]
    assert max(within) <= 100
    assert sequence.fork().rewind(PREFILL_CHUNK + 3).reused == PREFILL_CHUNK


def test_a_long_answer_keeps_milestones_with_and_without_drafts() -> None:
    for speculate in (False, True):
        model = tiny.model(with_mtp=True)
        engine = Engine(model, tiny.tokenizer(), "tiny", EngineOptions(speculate=speculate))
        sequence = engine.sequence()
        if sequence.drafting is not None:
            sequence.drafting.adaptive = False
        sequence.sync(prompt(20))
        list(sequence.generate(SamplingParams(temperature=0, max_tokens=600, stop_ids=())))
        positions = [boundary.position for boundary in sequence.boundaries]
        assert max(b - a for a, b in pairwise(positions)) <= MILESTONE_EVERY + 2
        assert len(sequence.tokens) > 400
        report = sequence.rewind(len(sequence.tokens) - 150)
        assert report.prefilled <= MILESTONE_EVERY + 2
        fresh = engine.sequence()
        engine.resident.clear()
        fresh.sync(sequence.tokens)
        assert sequence.ready is not None and fresh.ready is not None
        assert torch.allclose(sequence.ready, fresh.ready, atol=2e-3, rtol=1e-4)


def test_how_far_tokens_agree() -> None:
    chance = random.Random(3)
    for length in (0, 1, 2, 7, 1000):
        tokens = prompt(length)
        assert common_prefix(tokens, tokens) == common_prefix(tokens, [*tokens, 9]) == length
        for _ in range(20 if length else 0):
            at = chance.randrange(length)
            assert common_prefix(tokens, [*tokens[:at], tokens[at] + 1, *tokens[at + 1 :]]) == at
