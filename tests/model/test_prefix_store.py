"""States on disk: the same bits come back, anything else is refused, and nothing is lost or left behind."""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import os
import random
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dsv4_model import prefix_store as module
from dsv4_model.cache.formats import CacheFormat
from dsv4_model.cache.kv_cache import Boundary
from dsv4_model.checkpoint import save_checkpoint
from dsv4_model.engine import Engine, EngineOptions, Sequence
from dsv4_model.prefix_store import PrefixStore, StoreError, StoreKey
from dsv4_model.sampling import SamplingParams
from dsv4_model.stored_states import MAGIC, MAX_HEADER, StoredState, list_states, state_path
from tests.model import tiny

GREEDY = SamplingParams(temperature=0, max_tokens=20, stop_ids=())
START = len(MAGIC) + 4


def prompt(length: int, seed: int = 0) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(7, 263) for _ in range(length)]


def engine(store: PrefixStore | None, choice: CacheFormat = CacheFormat.FP32) -> Engine:
    """As after a new start: nothing resident."""
    return Engine(tiny.module(), tiny.tokenizer(), "tiny", EngineOptions(store=store, cache_format=choice))


def synced(made: Engine, *ends: int, tokens: list[int] | None = None) -> Sequence:
    """A sequence that was synced up to each of ``ends`` in turn."""
    sequence = made.sequence()
    for end in ends:
        sequence.sync((tokens or prompt(700))[:end])
    return sequence


@pytest.fixture
def store(tmp_path: Path) -> PrefixStore:
    return PrefixStore(tmp_path / "base" / "kv")


@pytest.fixture
def made(store: PrefixStore) -> Engine:
    return engine(store)


def load(store: PrefixStore, made: Engine, tokens: list[int], longer_than: int = 0) -> Boundary | None:
    return store.load(made.store_key, tokens, made.layout, made.pool, longer_than=longer_than)


def save(store: PrefixStore, made: Engine, end: int, tokens: list[int] | None = None) -> Path:
    """Store the state after ``end`` tokens, without computing it: zeros are as good a state as any."""
    tokens = (tokens or prompt(700))[:end]
    pages = []
    for start in range(0, end, 128):
        page = made.pool.take()
        page.filled = min(128, end - start)
        pages.append(page)
    rings, logits = torch.zeros(made.layout.ring_bytes, dtype=torch.uint8), torch.zeros(272)
    path = store.save(made.store_key, tokens, Boundary(end, 0, tuple(pages), rings, logits), made.layout)
    assert path is not None
    return path


def payload(path: Path) -> bytes:
    """A file without its header, which has the time, and without the digest."""
    data = path.read_bytes()
    return data[START + int.from_bytes(data[len(MAGIC) : START], "little") : -32]


def forged(path: Path, header: bytes, length: int | None = None) -> None:
    """Put another header into a file, with a digest that is right."""
    data = MAGIC + (len(header) if length is None else length).to_bytes(4, "little") + header + payload(path)
    path.write_bytes(data + hashlib.blake2b(data, digest_size=32).digest())


def header_of(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    found: dict[str, Any] = json.loads(
        data[START : START + int.from_bytes(data[len(MAGIC) : START], "little")]
    )
    return found


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
    assert [page.filled for page in found.pages] == [128, 128, 128, 16]


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
    tokens, rings = header + 4 * 300, header + 4 * 300 + made.layout.ring_bytes
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
    headers += [{**header, "draft_position": 301}, {**header, "version": 2}, {**header, "tokens": 300.0}]
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
            patch.setattr(made.pool, "reserve", full)
            assert load(store, made, prompt(400)) is None
    assert path.exists() and load(store, made, prompt(400)) is not None


# -- writing -----------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def no_space(*_: object) -> None:
    raise OSError(28, os.strerror(28))


def test_a_full_disk_loses_nothing_and_leaves_nothing(
    store: PrefixStore, made: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, made, 300)
    before = contents(store.folder)
    store.limit = next(iter(map(len, before.values()))) * 2  # the next one would take the first one's place
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        with pytest.raises(StoreError, match="No space left") as caught:
            save(store, made, 400)
    assert "dsv4 cache rm" in caught.value.remedy
    assert contents(store.folder) == before


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_the_system_cuts_leaves_nothing(store: PrefixStore, made: Engine) -> None:
    save(store, made, 300)
    before = contents(store.folder)
    with largest_file(1000), pytest.raises(StoreError, match="too large"):
        save(store, made, 400)
    assert contents(store.folder) == before


def test_a_folder_that_can_t_be_made_is_said(tmp_path: Path, made: Engine) -> None:
    (tmp_path / "file").write_text("")
    blocked = PrefixStore(tmp_path / "file" / "kv")
    with pytest.raises(StoreError, match="can't be stored") as caught:
        save(blocked, made, 300)
    assert "DSV4_KV_DIR" in caught.value.remedy
    assert load(blocked, made, prompt(300)) is None
    assert not blocked.has(made.store_key, prompt(300)) and blocked.states() == []


def test_writing_can_be_broken_off(store: PrefixStore, made: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    sequence = synced(made, 600)
    monkeypatch.setattr(module, "_FLUSH_EVERY", 1)
    asked = iter([*[False] * 6, True])
    assert made.keep(sequence, cancelled=lambda: next(asked)) == 0
    assert list(store.folder.iterdir()) == []
    assert made.keep(sequence, cancelled=lambda: False) == 600


def test_files_are_private(store: PrefixStore, made: Engine) -> None:
    old = os.umask(0)
    try:
        path = save(store, made, 300)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700


def test_the_least_recently_used_goes_first(store: PrefixStore, made: Engine) -> None:
    paths = {end: save(store, made, end) for end in (300, 301, 302)}
    for age, end in enumerate((302, 301, 300)):
        os.utime(paths[end], (1e9 - age, 1e9 - age))
    assert [state.tokens for state in store.states()] == [302, 301, 300]
    assert load(store, made, prompt(300)) is not None  # now 300 is the most recently used
    store.limit = sum(path.stat().st_size for path in paths.values()) + 100
    save(store, made, 303)
    assert {state.tokens for state in store.states()} == {300, 302, 303}
    os.utime(paths[302], (1, 1))
    save(store, made, 302)  # stored already: only touched
    save(store, made, 304)
    assert {state.tokens for state in store.states()} == {302, 303, 304}


def test_what_is_larger_than_the_limit_is_not_stored(store: PrefixStore, made: Engine) -> None:
    size = save(store, made, 300).stat().st_size
    sequence = synced(made, 600)
    for limit in (0, size, size + 1000):
        store.limit = limit
        assert made.keep(sequence) == 0
        assert [state.tokens for state in store.states()] == [300]
    exact = PrefixStore(store.folder.parent / "exact", size)
    assert save(exact, made, 300).stat().st_size == size


@pytest.mark.parametrize("choice", list(CacheFormat))
@pytest.mark.parametrize("end", [260, 300, 366])
def test_nothing_of_other_conversations_is_written(store: PrefixStore, choice: CacheFormat, end: int) -> None:
    """What went on after a point, or beside it in a page that is shared, doesn't show in its state."""
    alone = engine(None, choice)
    lonely = synced(alone, 257, end)
    expected = store.save(alone.store_key, lonely.tokens, lonely.boundaries[-1], alone.layout)
    assert expected is not None
    wanted, ring_bytes = payload(expected), alone.layout.ring_bytes
    expected.unlink()

    busy = engine(None, choice)
    shared = synced(busy, 257)
    other, twin = shared.fork(), shared.fork()
    other.sync([*prompt(257), *prompt(120, seed=9)])
    del other
    twin.sync(prompt(end))
    point = twin.boundaries[-1]
    twin.sync(prompt(end + 100))
    path = store.save(busy.store_key, prompt(end), point, busy.layout)
    assert path is not None
    skipped = 4 * end + ring_bytes
    assert payload(path)[skipped:] == wanted[skipped:]


def test_pages_that_were_used_before_are_clean(store: PrefixStore, made: Engine) -> None:
    synced(made, 700)
    gc.collect()
    assert made.pool._slabs and any(bool(slab.memory.any()) for slab in made.pool._slabs)
    path = save(store, made, 300)
    assert not any(payload(path)[4 * 300 :])


# -- others at the same folder -----------------------------------------------------------------------------


def test_threads_that_evict_at_once_don_t_fall_over_each_other(store: PrefixStore, made: Engine) -> None:
    store.limit = save(store, made, 300).stat().st_size * 3
    failures: list[BaseException] = []

    def work(number: int) -> None:
        own = engine(store)
        try:
            for step in range(12):
                save(store, own, 300 + (number * 12 + step) % 20)
                load(store, own, prompt(400))
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert all(path.suffix == ".kv" for path in store.folder.iterdir())
    save(store, made, 350)
    assert sum(state.nbytes for state in store.states()) <= store.limit
    assert load(store, made, prompt(400)) is not None


EVICTING = """
import sys, time
from pathlib import Path
from dsv4_model.stored_states import list_states, remove_stale_parts, remove_state
while list_states(folder := Path(sys.argv[1])):
    remove_stale_parts(folder)
    for state in list_states(folder)[2:]:
        remove_state(state)
    time.sleep(0.001)
"""


def test_processes_that_evict_at_once_don_t_fall_over_each_other(store: PrefixStore, made: Engine) -> None:
    save(store, made, 300)
    command = [sys.executable, "-c", EVICTING, str(store.folder)]
    others = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    try:
        for step in range(30):
            save(store, made, 301 + step % 9)
            load(store, made, prompt(400))
    finally:
        for state in store.states():
            state.path.unlink(missing_ok=True)
        said = [process.communicate(timeout=60)[1] for process in others]
    assert said == [b""] * 2 and [process.returncode for process in others] == [0] * 2
    assert list(store.folder.iterdir()) == []


def listing(store: PrefixStore, monkeypatch: pytest.MonkeyPatch, then: Callable[[StoredState], None]) -> None:
    """Do something to each file right after it was listed."""

    def listed(folder: Path) -> list[StoredState]:
        states = list_states(folder)
        for state in states:
            then(state)
        return states

    monkeypatch.setattr(module, "list_states", listed)


def test_a_file_that_vanishes_after_it_was_listed(
    store: PrefixStore, made: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, made, 300)
    listing(store, monkeypatch, lambda state: state.path.unlink(missing_ok=True))
    assert load(store, made, prompt(400)) is None
    store.limit = 1 << 20
    save(store, made, 301)


def test_links_are_not_followed(
    store: PrefixStore, made: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(store, made, 300)
    outside = tmp_path / "outside"
    path.replace(outside)
    whole = outside.read_bytes()
    path.symlink_to(outside)
    assert store.states() == [] and not store.has(made.store_key, prompt(300))
    assert load(store, made, prompt(400)) is None
    save(store, made, 300)  # takes the link's place
    assert not path.is_symlink() and outside.read_bytes() == whole

    def exchange(state: StoredState) -> None:
        state.path.unlink()
        state.path.symlink_to(outside)

    used = outside.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        listing(store, patch, exchange)
        assert load(store, made, prompt(400)) is None
        path.unlink()
        path.write_bytes(whole)
        store.limit = 0
        store._make_room(0)
    assert not path.is_symlink() and not path.exists()
    assert outside.read_bytes() == whole and outside.stat().st_mtime_ns == used


def test_what_is_no_file_is_left_alone(
    store: PrefixStore, made: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(store, made, 300)
    state = store.states()[0]
    path.unlink()
    os.mkfifo(path)  # opening it would wait for a writer
    assert store.states() == [] and load(store, made, prompt(400)) is None
    monkeypatch.setattr(module, "list_states", lambda folder: [state])
    assert load(store, made, prompt(400)) is None
    monkeypatch.undo()
    path.unlink(missing_ok=True)
    path.mkdir()
    assert store.states() == [] and load(store, made, prompt(400)) is None
    with pytest.raises(StoreError):
        save(store, made, 300)
    assert [entry.name for entry in store.folder.iterdir()] == [path.name]


def test_another_user_s_state_is_not_used(
    store: PrefixStore, made: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(store, made, 300)
    real = os.fstat

    def of_another(descriptor: int) -> Any:
        status = real(descriptor)
        return SimpleNamespace(st_mode=status.st_mode, st_size=status.st_size, st_uid=os.geteuid() + 1)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", of_another)
        assert load(store, made, prompt(400)) is None
    assert not path.exists()


def test_what_crashed_writers_left_is_removed(store: PrefixStore, made: Engine) -> None:
    path = save(store, made, 300)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        dead = process.pid
    ours = os.getpid()

    def part(process: int, mark: str, age: float) -> Path:
        made_part = path.with_name(f"{path.stem}.{process}-{mark * 8}.part")
        made_part.write_bytes(b"x")
        now = made_part.stat().st_mtime
        os.utime(made_part, (now - age, now - age))
        return made_part

    gone = [part(dead, "a", 120), part(ours, "b", 4000), part(dead, "c", 4000)]
    kept = [part(dead, "d", 5), part(ours, "e", 120)]
    foreign = path.with_name("notes.part")
    foreign.write_text("mine")
    os.utime(foreign, (1, 1))
    save(store, made, 301)
    assert not any(item.exists() for item in gone)
    assert all(item.exists() for item in (*kept, foreign))
