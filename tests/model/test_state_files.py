"""The folder of states: writes that fail, limits, other processes, links, and what must not be in a file."""

from __future__ import annotations

import gc
import os
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

from dsv4_model import prefix_store as module
from dsv4_model.cache.formats import CacheFormat
from dsv4_model.engine import Engine
from dsv4_model.prefix_store import PrefixStore, StoreError
from dsv4_model.stored_states import StoredState, list_states
from tests.model.states import engine, load, payload, prompt, save, synced


@pytest.fixture
def store(tmp_path: Path) -> PrefixStore:
    return PrefixStore(tmp_path / "base" / "kv")


@pytest.fixture
def made(store: PrefixStore) -> Engine:
    return engine(store)


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
    store.limit = sum(path.stat().st_size for path in paths.values()) + 4000  # they grow
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
    expected = store.save(alone.store_key, lonely.tokens, lonely.boundaries[-1], alone.space)
    assert expected is not None
    wanted = payload(expected)
    expected.unlink()

    busy = engine(None, choice)
    shared = synced(busy, 257)
    other, twin = shared.fork(), shared.fork()
    other.sync([*prompt(257), *prompt(120, seed=9)])
    del other
    twin.sync(prompt(end))
    point = twin.boundaries[-1]
    twin.sync(prompt(end + 100))
    path = store.save(busy.store_key, prompt(end), point, busy.space)
    assert path is not None
    assert payload(path) == wanted


def test_pages_that_were_used_before_are_clean(store: PrefixStore, made: Engine) -> None:
    synced(made, 700)
    gc.collect()
    assert any(bool(slab.memory.any()) for slab in made.space.parts[0].pool._slabs)
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
