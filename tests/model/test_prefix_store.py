"""States on disk: the same bits come back, and anything else is refused."""

from __future__ import annotations

import itertools
import json
import os
import random
from pathlib import Path

import pytest
import torch

from dsv4_model.cache.formats import CacheFormat
from dsv4_model.cache.ring_copy import copied_bytes
from dsv4_model.checkpoint import save_checkpoint
from dsv4_model.engine import Engine, EngineOptions
from dsv4_model.prefix_store import PrefixStore
from dsv4_model.sampling import SamplingParams
from dsv4_model.store_key import VERSION, StoreKey
from dsv4_model.stored_states import MAGIC, MAX_HEADER, list_states, state_path
from tests.model import tiny
from tests.model.states import START, engine, forged, header_of, load, prompt, save, synced

GREEDY = SamplingParams(temperature=0, max_tokens=20, stop_ids=())


@pytest.fixture
def store(tmp_path: Path) -> PrefixStore:
    return PrefixStore(tmp_path / "base" / "kv")


@pytest.fixture
def made(store: PrefixStore) -> Engine:
    return engine(store)


# -- what comes back ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", list(CacheFormat))
@pytest.mark.parametrize("ends", [(257,), (300, 384), (511,)])
def test_a_state_comes_back_bit_for_bit(
    store: PrefixStore, choice: CacheFormat, ends: tuple[int, ...]
) -> None:
    first = engine(store, choice)
    sequence = synced(first, *ends)
    assert first.keep(sequence) == ends[-1]
    again = engine(store, choice).sequence()
    report = again.sync(prompt(700)[: ends[-1]])
    assert (report.reused, report.prefilled, report.restored) == (ends[-1], 0, ends[-1])
    assert report.restored_from == f"disk at {ends[-1]}" and report.cause is None
    assert torch.equal(again._logits, sequence._logits)  # type: ignore[arg-type]
    assert list(again.generate(GREEDY)) == list(sequence.generate(GREEDY))
    for timeline in (sequence, again):
        timeline.sync(prompt(700)[: ends[-1] + 100])
    assert torch.equal(again._logits, sequence._logits)  # type: ignore[arg-type]


def test_the_longest_state_wins(store: PrefixStore, made: Engine) -> None:
    for end in (300, 400, 500):
        save(store, made, end)
    save(store, made, 600, prompt(700, seed=1))
    tokens = [*prompt(450), *prompt(100, seed=2)]
    found = load(store, made, tokens)
    assert found is not None and found.position == 400
    assert store.longest(made.store_key, tokens) == 400
    assert store.longest(made.store_key, prompt(299)) == 0
    assert load(store, made, tokens, longer_than=400) is None
    assert [page.filled for page in found.parts[0].pages] == [128, 128, 128, 16]


def test_a_shorter_state_serves_where_the_longest_is_damaged(store: PrefixStore, made: Engine) -> None:
    save(store, made, 300)
    longest = save(store, made, 400)
    longest.write_bytes(longest.read_bytes()[:-1])
    found = load(store, made, prompt(500))
    assert found is not None and found.position == 300


def test_only_exactly_these_tokens_are_had(store: PrefixStore, made: Engine) -> None:
    save(store, made, 300)
    assert store.has(made.store_key, prompt(300))
    assert not store.has(made.store_key, prompt(299))
    assert not store.has(made.store_key, [*prompt(299), 8])
    assert not store.has(StoreKey("0" * 32, "other"), prompt(300))


# -- what is refused ---------------------------------------------------------------------------------------


def refused(store: PrefixStore, made: Engine, path: Path) -> None:
    """The file isn't used, and is gone."""
    assert load(store, made, prompt(400)) is None
    assert not path.exists()


def test_any_flipped_byte_is_noticed(store: PrefixStore, made: Engine) -> None:
    path = save(store, made, 300)
    whole = path.read_bytes()
    header = START + int.from_bytes(whole[len(MAGIC) : START], "little")
    tokens, rings = header + 4 * 300, header + 4 * 300 + copied_bytes(made.layout, 300)
    parts = (header, tokens, rings, rings + 4 * 272, len(whole) - 32, len(whole))
    chance = random.Random(0)
    offsets = {*range(header), *(edge + by for edge in parts for by in (-1, 0)), len(whole) - 32}
    offsets |= {chance.randrange(a, b) for a, b in itertools.pairwise(parts) for _ in range(12)}
    for offset in sorted(offsets - {len(whole)}):
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        refused(store, made, path)
    path.write_bytes(whole)
    assert load(store, made, prompt(400)) is not None


def test_any_other_length_is_noticed(store: PrefixStore, made: Engine) -> None:
    path = save(store, made, 300)
    whole = path.read_bytes()
    chance = random.Random(0)
    for length in (0, 1, 7, 8, 11, 12, 13, 100, len(whole) - 33, len(whole) - 32, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(store, made, path)
    for _ in range(20):
        path.write_bytes(whole[: chance.randrange(len(whole))])
        refused(store, made, path)
    path.write_bytes(whole + b"\0")
    refused(store, made, path)


HOSTILE: list[object] = [None, True, -1, 1.5, float("nan"), 10**30, "300", [300], {"a": 1}]


def test_hostile_headers_are_refused(store: PrefixStore, made: Engine) -> None:
    path = save(store, made, 300)
    whole, header = path.read_bytes(), header_of(path)
    counted = set(header) - {"model", "format", "created"}
    headers = [{**header, name: value} for name in sorted(counted) for value in HOSTILE]
    headers += [{key: value for key, value in header.items() if key != name} for name in sorted(counted)]
    headers += [
        {**header, "draft_position": 301},
        {**header, "version": VERSION - 1},
        {**header, "tokens": 300.0},
    ]
    texts = [json.dumps(value).encode() for value in (*headers, {}, [], "x", 1, None)]
    texts += [b"", b"{", b"\xff\xfe", b"[" * 60_000, b'{"version": 1e999}', b"9" * 50_000]
    for text in texts:
        path.write_bytes(whole)
        forged(path, text)
        refused(store, made, path)
    for length in (0, 1, MAX_HEADER, MAX_HEADER + 1, 2**31, 2**32 - 1):
        path.write_bytes(whole)
        forged(path, json.dumps(header).encode(), length)
        refused(store, made, path)


def test_a_state_of_other_tokens_under_our_name_is_refused(store: PrefixStore, made: Engine) -> None:
    other = save(store, made, 300, prompt(300, seed=5))
    mine = save(store, made, 300)
    other.replace(mine)
    refused(store, made, mine)


def test_other_weights_formats_and_tokenizers_have_other_keys(store: PrefixStore, tmp_path: Path) -> None:
    keys = {engine(store, choice).store_key.digest for choice in CacheFormat}
    keys.add(Engine(tiny.model(seed=1), tiny.tokenizer(), "tiny").store_key.digest)
    folder = tmp_path / "small"
    save_checkpoint(tiny.model(), folder, quantize=False)
    (folder / "tokenizer.json").write_text(json.dumps(tiny.tokenizer_definition()), encoding="utf-8")
    before = Engine.load(folder, options=EngineOptions(native=False)).store_key
    assert Engine.load(folder, options=EngineOptions(native=False)).store_key == before
    assert before.name == "small"
    keys.add(before.digest)
    weights = max(folder.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    with weights.open("r+b") as file:  # far from everything that is sampled
        file.seek(weights.stat().st_size * 3 // 4)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    keys.add(Engine.load(folder, options=EngineOptions(native=False)).store_key.digest)
    assert len(keys) == len(CacheFormat) + 3


def test_a_foreign_state_is_never_taken(store: PrefixStore, made: Engine) -> None:
    path = save(store, made, 300)
    foreign = engine(store, CacheFormat.BF16)
    assert load(store, foreign, prompt(400)) is None
    assert path.exists()
    path.replace(state_path(store.folder, foreign.store_key.digest, 300, list_states(store.folder)[0].digest))
    assert load(store, foreign, prompt(400)) is None
    assert list_states(store.folder) == []


def test_what_is_refused_is_computed(store: PrefixStore, made: Engine) -> None:
    sequence = synced(made, 300)
    made.keep(sequence)
    (path,) = store.folder.iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    again = engine(store).sequence()
    report = again.sync(prompt(300))
    assert (report.reused, report.prefilled, report.restored) == (0, 300, 0)
    assert torch.equal(again._logits, sequence._logits)  # type: ignore[arg-type]


def test_too_little_memory_makes_a_state_unusable_and_keeps_it(
    store: PrefixStore, made: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(store, made, 300)
    for failure in (MemoryError(), RuntimeError("out of memory")):

        def full(count: int, failure: Exception = failure) -> None:
            raise failure

        with monkeypatch.context() as patch:
            patch.setattr(made.space.parts[0].pool, "reserve", full)
            assert load(store, made, prompt(400)) is None
    assert path.exists() and load(store, made, prompt(400)) is not None
