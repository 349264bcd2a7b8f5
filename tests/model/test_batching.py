"""Continuous batching: what a sequence gets doesn't depend on who decodes beside it."""

from __future__ import annotations

import random

import pytest

from dsv4_model.batching import PROMPT_TOKENS, Batch, Member
from dsv4_model.engine import SequenceError, StopReason
from dsv4_model.sampling import SamplingError, SamplingParams
from tests.model import tiny


def prompt(length: int, seed: int) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(7, 263) for _ in range(length)]


def params(seed: int, count: int) -> SamplingParams:
    return SamplingParams(temperature=0.7, seed=seed, max_tokens=count, stop_ids=())


def alone(tokens: list[int], how: SamplingParams) -> list[int]:
    sequence = tiny.engine().sequence()
    sequence.sync(tokens)
    return list(sequence.generate(how))


def sampled(member: Member, tokens: list[int]) -> list[int]:
    return member.sequence.tokens[len(tokens) :]


def test_members_of_all_lengths_get_what_they_get_alone() -> None:
    batch = Batch(tiny.engine())
    prompts = [prompt(n, seed=n) for n in (1, 3, 127, 130, 300)]
    hows = [params(seed, 4 + seed) for seed in range(len(prompts))]
    members = [
        batch.add(tiny.engine().sequence(), tokens, how) for tokens, how in zip(prompts, hows, strict=True)
    ]
    batch.run()
    for member, tokens, how in zip(members, prompts, hows, strict=True):
        assert sampled(member, tokens) == alone(tokens, how)
        assert member.ended and member.stop_reason is not None
        assert member.sequence.stop_reason is member.stop_reason


def test_joining_and_leaving_in_the_middle_changes_nothing_for_the_others() -> None:
    batch = Batch(tiny.engine())
    first = prompt(40, seed=1)
    early = batch.add(tiny.engine().sequence(), first, params(1, 20))
    for _ in range(5):
        batch.step()
    second = prompt(200, seed=2)
    late = batch.add(tiny.engine().sequence(), second, params(2, 3))
    batch.run()
    assert sampled(early, first) == alone(first, params(1, 20))
    assert sampled(late, second) == alone(second, params(2, 3))


def test_a_long_prompt_is_fed_in_pieces_beside_the_decoding_ones() -> None:
    batch = Batch(tiny.engine())
    short = batch.add(tiny.engine().sequence(), prompt(10, seed=1), params(1, 30))
    batch.step()
    batch.add(tiny.engine().sequence(), prompt(PROMPT_TOKENS + 100, seed=2), params(2, 1))
    before = short.sampled
    steps = [batch.step() for _ in range(2)]
    assert short.sampled == before + 2
    assert all(any(step.member is short and step.token is not None for step in one) for one in steps)


def test_a_shared_prefix_is_taken_over_and_not_computed_again() -> None:
    engine = tiny.engine()
    origin = engine.sequence()
    shared = prompt(300, seed=9)
    origin.sync(shared)
    batch = Batch(engine)
    tokens = [*shared, *prompt(5, seed=10)]
    member = batch.add(engine.sequence(), tokens, params(3, 4))
    assert member.sequence.position == 300
    batch.run()
    assert sampled(member, tokens) == alone(tokens, params(3, 4))


def test_more_members_than_the_limit_all_have_their_turns() -> None:
    batch = Batch(tiny.engine(), limit=2)
    prompts = [prompt(8, seed=n) for n in range(5)]
    members = [batch.add(tiny.engine().sequence(), p, params(n, 6)) for n, p in enumerate(prompts)]
    progress = []
    for _ in range(6):
        batch.step()
        progress.append([member.sampled for member in members])
    assert max(progress[-1]) - min(progress[-1]) <= 2
    batch.run()
    for n, (member, tokens) in enumerate(zip(members, prompts, strict=True)):
        assert sampled(member, tokens) == alone(tokens, params(n, 6))


def test_one_that_is_cancelled_or_has_a_dead_grammar_leaves_the_others_alone() -> None:
    class Dead:
        def allowed(self) -> list[int]:
            return []

        def accept(self, token_id: int) -> None:
            raise AssertionError

    batch = Batch(tiny.engine())
    tokens = prompt(30, seed=4)
    stop: list[bool] = []
    fine = batch.add(tiny.engine().sequence(), tokens, params(4, 12))
    dead = batch.add(tiny.engine().sequence(), prompt(30, seed=5), params(5, 12), constraint=Dead())
    gone = batch.add(
        tiny.engine().sequence(), prompt(30, seed=6), params(6, 12), cancelled=lambda: bool(stop)
    )
    for _ in range(4):
        batch.step()
    stop.append(True)
    batch.run()
    assert isinstance(dead.error, SamplingError) and dead.ended
    assert gone.stop_reason is StopReason.CANCELLED and 0 < gone.sampled < 12
    assert sampled(fine, tokens) == alone(tokens, params(4, 12))


def test_a_broken_pass_leaves_everyone_able_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny.engine()
    batch = Batch(engine)
    prompts = [prompt(50, seed=7), prompt(60, seed=8)]
    members = [batch.add(engine.sequence(), p, params(n, 8)) for n, p in enumerate(prompts)]
    for _ in range(3):
        batch.step()

    def broken(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(engine, "forward", broken)
        with pytest.raises(MemoryError):
            batch.step()
    batch.run()
    for n, (member, tokens) in enumerate(zip(members, prompts, strict=True)):
        assert sampled(member, tokens) == alone(tokens, params(n, 8))


def test_a_sequence_joins_once() -> None:
    batch = Batch(tiny.engine())
    sequence = tiny.engine().sequence()
    batch.add(sequence, prompt(5, seed=1), params(1, 2))
    with pytest.raises(SequenceError, match="already"):
        batch.add(sequence, prompt(5, seed=1), params(1, 2))
