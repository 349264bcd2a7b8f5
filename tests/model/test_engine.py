from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dsv4_model import engine as engine_module
from dsv4_model.boundaries import MOST_KEPT
from dsv4_model.checkpoint import CheckpointError, save_checkpoint
from dsv4_model.engine import (
    CacheMemoryError,
    ContextOverflowError,
    Engine,
    EngineError,
    EngineOptions,
    PrefillCancelledError,
    Sequence,
    SequenceError,
    StopReason,
)
from dsv4_model.sampling import SamplingError, SamplingParams
from dsv4_model.sequence import PREFILL_CHUNK
from dsv4_model.tokenizer import TokenizerError
from tests.model import tiny

NEVER_STOP = 271  # an id that no tokenizer entry has, so it is never sampled
GREEDY = SamplingParams(temperature=0, max_tokens=12, stop_ids=())


@pytest.fixture(autouse=True)
def strangers() -> None:
    """No timeline of another test is there to be taken over from."""
    tiny.engine().resident.clear()


def prompt(length: int, seed: int = 0) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(7, 263) for _ in range(length)]


def logits_of(tokens: list[int]) -> torch.Tensor:
    """The last logits of one full forward pass from nothing."""
    model = tiny.module()
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([tokens]), model.new_state())
    return logits[0, -1]


def greedy_by_full_forward(tokens: list[int], count: int) -> list[int]:
    tokens = list(tokens)
    start = len(tokens)
    for _ in range(count):
        tokens.append(int(logits_of(tokens)[:263].argmax()))
        if tokens[-1] == 1:
            break
    return tokens[start:]


def synced(tokens: list[int]) -> Sequence:
    sequence = tiny.engine().sequence()
    sequence.sync(tokens)
    return sequence


def assert_at(sequence: Sequence, tokens: list[int]) -> None:
    """The sequence holds these tokens and predicts what a fresh model predicts."""
    assert sequence.tokens == tokens and sequence.position == len(tokens)
    assert sequence._logits is not None
    assert torch.allclose(sequence._logits, logits_of(tokens), atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("chunks", [[600], [1] * 40, [3, 127, 128, 129, 5], [300, 1, 1, 260]])
def test_generation_after_any_chunking_equals_full_forwards(chunks: list[int]) -> None:
    tokens = prompt(sum(chunks))
    sequence = tiny.engine().sequence()
    end = 0
    for size in chunks:
        report = sequence.sync(tokens[: end + size])
        assert (report.reused, report.prefilled, report.cause) == (end, size, None)
        end += size
    assert_at(sequence, tokens)
    sampled = list(sequence.generate(GREEDY))
    assert sampled == greedy_by_full_forward(tokens, 12)
    assert sequence.tokens == tokens + sampled


def test_the_last_sampled_token_is_fed_once_by_the_next_sync() -> None:
    sequence = synced(prompt(50))
    sampled = list(sequence.generate(GREEDY))
    assert sequence.position == 50 + len(sampled) - 1
    longer = [*sequence.tokens, *prompt(5, seed=1)]
    report = sequence.sync(longer)
    assert (report.reused, report.prefilled, report.cause) == (50 + len(sampled) - 1, 6, None)
    assert_at(sequence, longer)


def test_generating_twice_equals_generating_once() -> None:
    once = synced(prompt(40))
    list(once.generate(GREEDY))
    twice = synced(prompt(40))
    for count in (1, 4, 7):
        list(twice.generate(SamplingParams(temperature=0, max_tokens=count, stop_ids=())))
    assert twice.tokens == once.tokens


def test_syncing_the_same_tokens_costs_nothing() -> None:
    sequence = synced(prompt(70))
    report = sequence.sync(prompt(70))
    assert (report.reused, report.prefilled, report.restored_from, report.cause) == (70, 0, None, None)
    assert_at(sequence, prompt(70))


def test_divergence_goes_back_to_the_latest_snapshot_before_it() -> None:
    first, second, third = prompt(100), prompt(60, seed=1), prompt(30, seed=2)
    sequence = synced(first)
    sequence.sync(first + second)
    sequence.sync(first + second + third)
    other = first + second + third[:10] + [third[10] ^ 1] + third[11:]
    report = sequence.sync(other)
    assert report.cause == "diverged at token 170"
    assert report.restored_from == "snapshot at 160"
    assert (report.reused, report.prefilled) == (160, 30)
    assert_at(sequence, other)
    report = sequence.sync([8, *first])
    assert (report.reused, report.restored_from, report.cause) == (0, "nothing", "diverged at token 0")
    assert_at(sequence, [8, *first])


def test_shortening_goes_back_too() -> None:
    first, second = prompt(100), prompt(60, seed=1)
    sequence = synced(first)
    sequence.sync(first + second)
    report = sequence.sync(first)
    assert (report.reused, report.prefilled) == (100, 0)
    assert (report.restored_from, report.cause) == ("snapshot at 100", "shortened to token 100")
    assert_at(sequence, first)
    report = sequence.sync(first[:99])
    assert (report.reused, report.prefilled, report.restored_from) == (0, 99, "nothing")
    assert_at(sequence, first[:99])


def test_replacing_only_the_pending_token_needs_no_restore() -> None:
    sequence = synced(prompt(30))
    list(sequence.generate(GREEDY))
    other = [*sequence.tokens[:-1], (sequence.tokens[-1] + 1) % 200 + 7]
    report = sequence.sync(other)
    assert report.cause == f"diverged at token {len(other) - 1}"
    assert (report.reused, report.prefilled, report.restored_from) == (len(other) - 1, 1, None)
    assert_at(sequence, other)


def test_snapshots_from_an_abandoned_branch_are_never_used() -> None:
    base = prompt(50)
    left, right = base + prompt(40, seed=1), base + prompt(40, seed=2)
    sequence = synced(base)
    for branch in (left, right, left, [*right, 9], left[:70], right[:60]):
        sequence.sync(branch)
        assert_at(sequence, branch)


def test_random_walks_of_syncs_and_generations_stay_true() -> None:
    chance = random.Random(5)
    sequence = tiny.engine().sequence()
    tokens: list[int] = []
    for step in range(40):
        cut = chance.choice([len(tokens), len(tokens), chance.randint(0, len(tokens))])
        tokens = (tokens[:cut] + prompt(chance.randrange(1, 60), seed=step))[:400]
        report = sequence.sync(tokens)
        assert report.reused + report.prefilled == len(tokens)
        assert_at(sequence, tokens)
        if chance.random() < 0.5:
            count = chance.randrange(1, 8)
            list(sequence.generate(SamplingParams(seed=step, max_tokens=count)))
            tokens = list(sequence.tokens)
        assert len(sequence.boundaries) <= MOST_KEPT


def test_snapshots_keep_the_first_and_the_last_of_many() -> None:
    sequence = tiny.engine().sequence()
    tokens = prompt(300)
    for end in range(5, 301, 5):
        sequence.sync(tokens[:end])
    positions = [boundary.position for boundary in sequence.boundaries]
    assert len(positions) == MOST_KEPT
    assert positions[0] == 5 and positions[-1] == 300


def test_forks_are_independent() -> None:
    sequence = synced(prompt(80))
    fork = sequence.fork()
    expected = greedy_by_full_forward(prompt(80), 6)
    six = SamplingParams(temperature=0, max_tokens=6, stop_ids=())
    assert list(sequence.generate(six)) == expected
    assert_at(fork, prompt(80))
    fork.sync([*prompt(80), 9, 9, 9])
    assert_at(fork, [*prompt(80), 9, 9, 9])
    assert sequence.tokens == prompt(80) + expected
    report = fork.sync(prompt(80))
    assert report.restored_from == "snapshot at 80"
    assert list(fork.generate(six)) == expected


def test_usage_counts_bytes_by_kind() -> None:
    sequence = synced(prompt(300))
    usage = sequence.usage()
    pages = 3  # 300 tokens in pages of 128
    assert usage["csa_entries"] == pages * 2 * (128 // 4) * 64 * 4
    assert usage["hca_entries"] == pages * 1 * 64 * 4
    assert usage["index_keys"] == pages * 2 * (128 // 4) * 64 * 4
    assert usage["window"] == 4 * 16 * 64 * 4
    # value and gate rows: HCA 128 of 64 channels; CSA 8 of 2 x 64, for entries and for keys
    assert usage["partial"] == 2 * 4 * (128 * 64 + 2 * 2 * 8 * 128)
    assert usage["draft"] == 0
    cache = sequence.cache
    assert sum(usage.values()) == cache.rings.nbytes + sum(page.data.nbytes for page in cache.pages)
    assert sum(tiny.engine().sequence().usage().values()) == usage["window"] + usage["partial"]


def test_a_seed_reproduces_whatever_the_splits() -> None:
    def sample(seed: int, *counts: int) -> list[int]:
        sequence = synced(prompt(20))
        for count in counts:
            list(sequence.generate(SamplingParams(temperature=3.0, seed=seed, max_tokens=count)))
        return sequence.tokens

    assert sample(1, 10) == sample(1, 10) == sample(1, 3, 7)
    assert sample(1, 10) != sample(2, 10)


class Loop:
    """A constraint that spells a fixed text after an opener, and is free otherwise."""

    def __init__(self, script: list[list[int] | None]) -> None:
        self.script = script
        self.accepted: list[int] = []

    def allowed(self) -> list[int] | None:
        return self.script[len(self.accepted)]

    def accept(self, token_id: int) -> None:
        self.accepted.append(token_id)


def test_the_constraint_is_asked_and_told() -> None:
    constraint = Loop([[50], [60, 61], None, [70]])
    sequence = synced(prompt(10))
    params = SamplingParams(seed=0, max_tokens=4, stop_ids=(NEVER_STOP,))
    sampled = list(sequence.generate(params, constraint=constraint))
    assert sampled == constraint.accepted
    assert sampled[0] == 50 and sampled[1] in (60, 61)
    if len(sampled) == 4:
        assert sampled[3] == 70


def test_a_dead_constraint_is_a_named_error_and_keeps_what_came_before() -> None:
    sequence = synced(prompt(10))
    with pytest.raises(SamplingError, match="allows no token"):
        list(sequence.generate(GREEDY, constraint=Loop([[50], []])))
    assert sequence.tokens == [*prompt(10), 50]
    sequence.sync([*prompt(10), 50, 51])
    assert_at(sequence, [*prompt(10), 50, 51])


def ordinary(count: int) -> list[list[int] | None]:
    return [list(range(7, 263))] * count


@pytest.mark.parametrize("budget", [0, 1, 5])
def test_the_thinking_budget_forces_the_end_of_the_thought(budget: int) -> None:
    tokenizer = tiny.tokenizer()
    sequence = synced([*prompt(10), tokenizer.think_id])
    constraint = Loop([*ordinary(budget), None, *ordinary(9)])
    params = SamplingParams(seed=0, max_tokens=9, stop_ids=(), thinking_budget=budget)
    sampled = list(sequence.generate(params, constraint=constraint))
    assert sampled[budget] == tokenizer.end_think_id
    assert sampled.count(tokenizer.end_think_id) == 1 and len(sampled) == 9
    assert constraint.accepted == sampled
    report = sequence.sync([*sequence.tokens, 9])
    assert report.prefilled == 2
    assert_at(sequence, sequence.tokens)


def test_the_thinking_budget_waits_for_a_constraint_that_is_busy() -> None:
    tokenizer = tiny.tokenizer()
    sequence = synced([*prompt(10), tokenizer.think_id])
    params = SamplingParams(temperature=0, max_tokens=5, stop_ids=(), thinking_budget=1)
    constraint = Loop([[40], [41], [42], None, [43]])
    expected = [40, 41, 42, tokenizer.end_think_id, 43]
    assert list(sequence.generate(params, constraint=constraint)) == expected


def test_no_thought_no_budget() -> None:
    tokenizer = tiny.tokenizer()
    for opening in ([], [tokenizer.think_id, 9, tokenizer.end_think_id]):
        sequence = synced([*prompt(10), *opening])
        params = SamplingParams(seed=0, max_tokens=4, stop_ids=(), thinking_budget=0)
        sampled = list(sequence.generate(params, constraint=Loop(ordinary(4))))
        assert tokenizer.end_think_id not in sampled


def test_stopping_at_eos_and_stop_ids() -> None:
    for stop in (1, 99):
        sequence = synced(prompt(10))
        params = SamplingParams(temperature=0, max_tokens=9, stop_ids=(99,))
        sampled = list(sequence.generate(params, constraint=Loop([[50], [stop], [51]])))
        assert sampled == [50, stop]
        assert sequence.stop_reason is StopReason.STOP
        assert sequence.tokens[-2:] == [50, stop]


def test_stopping_at_max_tokens_and_at_the_end_of_the_window() -> None:
    sequence = synced(prompt(tiny.CONTEXT - 3))
    two = SamplingParams(seed=0, max_tokens=2, stop_ids=())
    assert len(list(sequence.generate(two, constraint=Loop(ordinary(2))))) == 2
    assert str(sequence.stop_reason) == "length"
    assert len(list(sequence.generate(two, constraint=Loop(ordinary(2))))) == 1
    assert str(sequence.stop_reason) == "context"
    with pytest.raises(ContextOverflowError, match=r"701 tokens don't fit the context window of 700"):
        sequence.generate(two)


def test_an_overlong_prompt_changes_nothing() -> None:
    sequence = synced(prompt(30))
    with pytest.raises(ContextOverflowError) as caught:
        sequence.sync(prompt(tiny.CONTEXT + 1))
    assert "Compact" in caught.value.remedy
    assert_at(sequence, prompt(30))


@pytest.mark.parametrize("wrong", [272, -1])
def test_ids_outside_the_vocabulary_are_refused(wrong: int) -> None:
    sequence = synced(prompt(30))
    with pytest.raises(SequenceError, match=f"Token id {wrong} is outside"):
        sequence.sync([*prompt(30), wrong])
    assert_at(sequence, prompt(30))


def test_nothing_to_continue() -> None:
    sequence = tiny.engine().sequence()
    with pytest.raises(SequenceError, match="nothing to continue"):
        sequence.generate(GREEDY)
    sequence.sync(prompt(5))
    assert sequence.sync([]).cause == "shortened to token 0"
    with pytest.raises(SequenceError, match="nothing to continue"):
        sequence.generate(GREEDY)


def countdown(calls: int) -> Iterator[bool]:
    yield from [False] * calls
    while True:
        yield True


def test_generation_is_cancelled_between_tokens() -> None:
    sequence = synced(prompt(20))
    answers = countdown(7)
    sampled = list(sequence.generate(GREEDY, cancelled=lambda: next(answers)))
    assert sequence.stop_reason is StopReason.CANCELLED
    assert 0 < len(sampled) < 12
    assert sequence.tokens == prompt(20) + sampled
    sequence.sync([*sequence.tokens, 9])
    assert_at(sequence, sequence.tokens)


def test_prefill_is_cancelled_between_chunks_and_goes_on_from_there() -> None:
    sequence = tiny.engine().sequence()
    answers = countdown(1)
    with pytest.raises(PrefillCancelledError, match=f"after {PREFILL_CHUNK} of 650 tokens"):
        sequence.sync(prompt(650), cancelled=lambda: next(answers))
    assert sequence.tokens == prompt(650)[:PREFILL_CHUNK]
    report = sequence.sync(prompt(650))
    assert (report.reused, report.prefilled, report.cause) == (PREFILL_CHUNK, 650 - PREFILL_CHUNK, None)
    assert_at(sequence, prompt(650))


def test_a_dropped_generation_loses_nothing_and_a_stale_one_is_refused() -> None:
    sequence = synced(prompt(20))
    stream = sequence.generate(GREEDY)
    sampled = [next(stream), next(stream)]
    assert sequence.tokens == prompt(20) + sampled
    report = sequence.sync([*sequence.tokens, 9])
    assert (report.reused, report.prefilled) == (21, 2)
    with pytest.raises(SequenceError, match="moved on"):
        next(stream)
    assert_at(sequence, [*prompt(20), *sampled, 9])


def test_an_interrupt_inside_the_model_leaves_the_state_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    sequence = synced(prompt(20))

    def interrupted(*arguments: Any) -> None:
        passes.forward(*arguments)  # the rings have been written to
        raise KeyboardInterrupt

    passes, engine = tiny.engine().passes, tiny.engine()
    with monkeypatch.context() as patch:
        patch.setattr(engine, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sequence.sync(prompt(40))
    assert_at(sequence, prompt(20))
    sequence.sync(prompt(40))
    assert_at(sequence, prompt(40))


def test_no_memory_for_a_turn_leaves_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(tiny.module(), tiny.tokenizer(), "tiny")
    sequence = engine.sequence()
    sequence.sync(prompt(100))

    def refuse(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: not enough memory")

    with monkeypatch.context() as patch:
        patch.setattr("dsv4_model.cache.pages.zeroed", refuse)
        patch.setattr(engine.space.parts[0].pool, "_slabs", [])
        with pytest.raises(CacheMemoryError) as caught:
            sequence.sync(prompt(600))
        assert "shorten the context" in caught.value.remedy
        assert_at(sequence, prompt(100))
    assert sequence.sync(prompt(600)).reused == 100
    assert_at(sequence, prompt(600))


def test_a_rewind_is_exact_and_replays_only_what_follows_the_last_boundary() -> None:
    sequence = synced(prompt(200))
    sequence.sync(prompt(200) + prompt(300, seed=1))
    report = sequence.rewind(260)
    assert (report.reused, report.prefilled) == (200, 60)
    assert_at(sequence, prompt(200) + prompt(300, seed=1)[:60])
    with pytest.raises(SequenceError, match="no token 261"):
        sequence.rewind(261)


def test_a_relative_takes_over_what_another_timeline_has_computed() -> None:
    first = synced(prompt(300))
    second = tiny.engine().sequence()
    report = second.sync([*prompt(300), 9, 10])
    assert (report.reused, report.restored, report.prefilled) == (300, 300, 2)
    assert report.restored_from == "fork at 300"
    assert second.cache.pages[0] is first.cache.pages[0]
    assert_at(second, [*prompt(300), 9, 10])
    assert_at(first, prompt(300))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(tiny.model(), tmp_path / "small", quantize=False)
    definition = json.dumps(tiny.tokenizer_definition())
    (tmp_path / "small" / "tokenizer.json").write_text(definition, encoding="utf-8")
    return tmp_path / "small"


def test_loading_a_folder(folder: Path) -> None:
    threads = torch.get_num_threads()
    loaded = Engine.load(folder, threads=1)
    torch.set_num_threads(threads)
    assert loaded.name == "small" and loaded.context_window == tiny.CONTEXT
    sequence = loaded.sequence()
    sequence.sync(prompt(30))
    assert_at(sequence, prompt(30))


def test_the_built_in_model_is_a_folder_of_the_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_NANO_WEIGHTS", folder)
    assert Engine.load("nano").name == "nano"
    monkeypatch.setattr(engine_module, "_NANO_WEIGHTS", folder / "nowhere")
    with pytest.raises(EngineError, match="built-in model is missing") as caught:
        Engine.load("nano")
    assert "Reinstall" in caught.value.remedy


def test_loading_faults_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        Engine.load(tmp_path / "nowhere")
    for threads in (0, 10**14):
        with pytest.raises(EngineError, match=f"threads is {threads}"):
            Engine.load(folder, threads=threads)
    tokenizer = folder / "tokenizer.json"
    definition = tiny.tokenizer_definition()
    vocabulary = {**definition["model"]["vocab"], **{"A" * n: 261 + n for n in range(2, 20)}}
    definition["model"]["vocab"] = vocabulary
    tokenizer.write_text(json.dumps(definition), encoding="utf-8")
    with pytest.raises(EngineError, match="has 281 ids but the model has 272"):
        Engine.load(folder)
    tokenizer.unlink()
    with pytest.raises(TokenizerError, match="does not exist"):
        Engine.load(folder)


def test_a_device_that_is_not_there_is_an_engine_error() -> None:
    with pytest.raises(EngineError, match="can't be put on xla"):
        Engine(tiny.module(), tiny.tokenizer(), "tiny", EngineOptions(device="xla"))
    on_cpu = Engine(tiny.module(), tiny.tokenizer(), "tiny", EngineOptions(device="cpu"))
    assert on_cpu.sequence().sync(prompt(5)).prefilled == 5
