"""What the in-process backend writes to disk, and that a later one goes on from it; with V4-Nano."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="the engine's package needs torch")

from dsv4_agent.backends import inprocess
from dsv4_agent.backends.base import (
    BackendEvent,
    BackendNotice,
    Finished,
    GenerationRequest,
    ModelError,
    PrefixSynced,
    SampledIds,
)
from dsv4_agent.backends.inprocess import InProcessBackend
from dsv4_agent.dsml.dialect import Dialect, Thinking
from dsv4_agent.loop.events import Notice
from dsv4_agent.loop.sampling import TurnSampler
from dsv4_model.engine import Engine, EngineOptions
from dsv4_model.nano import WEIGHTS
from dsv4_model.prefix_store import PrefixStore, StoreError

if not any(WEIGHTS.glob("*.safetensors")):
    pytest.skip("the built-in model has no weights", allow_module_level=True)

REQUEST = GenerationRequest(12, Thinking.CHAT, Dialect.V4, temperature=0.0)
TOKENIZER = Engine.load("nano", options=EngineOptions(native=False)).tokenizer
OPENING = [TOKENIZER.bos_id, *TOKENIZER.encode("You rename functions and repair tests. " * 60, False)]


def asked(*prompts: str, opening: list[int] = OPENING) -> list[int]:
    """A conversation; between the prompts the model has said `Done.`"""
    tokens = list(opening)
    for number, prompt in enumerate(prompts):
        if number:
            tokens += [*TOKENIZER.encode("Done.", False), TOKENIZER.eos_id]
        tokens += [TOKENIZER.user_id, *TOKENIZER.encode(prompt, False), TOKENIZER.assistant_id]
        tokens.append(TOKENIZER.end_think_id)
    return tokens


def backend_of(folder: Path | None, *, keeps: bool = True) -> InProcessBackend:
    store = None if folder is None else PrefixStore(folder)
    return InProcessBackend(Engine.load("nano", options=EngineOptions(store=store)), keeps=keeps)


async def events_of(backend: InProcessBackend, tokens: list[int]) -> list[BackendEvent]:
    conversation: Any = SimpleNamespace(tokens=lambda: tokens)
    return [event async for event in backend.generate(conversation, REQUEST)]


async def turn(backend: InProcessBackend, tokens: list[int]) -> tuple[PrefixSynced, list[int]]:
    events = await events_of(backend, tokens)
    (synced,) = [event for event in events if isinstance(event, PrefixSynced)]
    assert isinstance(events[-1], Finished)
    assert events[-1].usage.cached_input_tokens == synced.reused
    assert synced.reused + synced.prefilled == len(tokens)
    return synced, [token for event in events if isinstance(event, SampledIds) for token in event.ids]


async def test_a_resumed_session_is_restored_and_goes_on_the_same(tmp_path: Path) -> None:
    prompt = "Rename total_price to final_cost everywhere. " * 20
    first = backend_of(tmp_path)
    synced, said = await turn(first, asked(prompt))
    assert synced == PrefixSynced(0, len(asked(prompt)))
    await first.close()
    resumed = [*asked(prompt), *said, TOKENIZER.eos_id, *asked("Now run the tests.", opening=[])]

    second, without = backend_of(tmp_path), backend_of(None)
    synced, continued = await turn(second, resumed)
    covered = len(asked(prompt)) + len(said) - 1
    assert synced.restored == synced.reused >= covered
    assert synced.restored_from == f"disk at {synced.restored}" and synced.cause is None
    assert synced.prefilled <= len(resumed) - covered < 64
    plain, expected = await turn(without, resumed)
    assert plain == PrefixSynced(0, len(resumed))
    assert continued == expected
    for backend in (second, without):
        await backend.close()


async def test_the_next_session_starts_from_the_stored_opening(tmp_path: Path) -> None:
    first = backend_of(tmp_path, keeps=False)
    await turn(first, asked("One."))
    await first.close()
    assert [state.tokens for state in PrefixStore(tmp_path).states()] == [len(OPENING)]
    second = backend_of(tmp_path)
    synced, _ = await turn(second, asked("Two."))
    assert synced.restored == synced.reused == len(OPENING)
    synced, _ = await turn(second, asked("Two.", "Three."))
    assert synced.restored == 0 and synced.reused > len(OPENING)
    await second.close()


async def test_nothing_is_written_after_a_turn_and_no_conversation_without_leave(tmp_path: Path) -> None:
    backend = backend_of(tmp_path, keeps=False)
    await turn(backend, asked("One."))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    await turn(backend, asked("One.", "Two."))
    await turn(backend, asked("Another."))
    await backend.close()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


async def test_short_openings_are_not_stored(tmp_path: Path) -> None:
    backend = backend_of(tmp_path)
    await turn(backend, asked("One.", opening=OPENING[:200]))
    await turn(backend, OPENING)  # nobody speaks in it
    assert list(tmp_path.iterdir()) == []
    await backend.close()


async def test_a_conversation_that_is_left_can_be_taken_up_again(tmp_path: Path) -> None:
    backend = backend_of(tmp_path)
    long = "Rename total_price to final_cost everywhere. " * 40
    _, said = await turn(backend, asked(long))
    await turn(backend, asked("Something else."))
    synced, _ = await turn(backend, [*asked(long), *said, TOKENIZER.eos_id, *asked("Go on.", opening=[])])
    assert synced.restored_from is not None and synced.restored_from.startswith("disk at")
    assert synced.reused >= len(asked(long))
    await backend.close()


async def test_the_engine_is_used_from_one_thread_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[str] = set()

    def watched(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            threads.add(threading.current_thread().name.partition("_")[0])
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    backend = backend_of(tmp_path)
    for owner, name in ((backend._engine, "keep"), (backend._engine, "forward"), (backend._sequence, "sync")):
        watched(owner, name)
    await turn(backend, asked("One."))
    await turn(backend, asked("Two."))
    await backend.close()
    assert threads == {"dsv4-engine"}


def keep_failing(failure: Exception) -> Callable[..., int]:
    def keep(*_: object, **__: object) -> int:
        raise failure

    return keep


async def test_a_full_disk_is_said_and_the_turn_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    backend = backend_of(tmp_path)
    full = StoreError("The KV state can't be stored (No space left on device).", "Free space.")
    monkeypatch.setattr(backend._engine, "keep", keep_failing(full))
    events = await events_of(backend, asked("One."))
    notices = [event for event in events if isinstance(event, BackendNotice)]
    assert notices == [BackendNotice(str(full))] and isinstance(events[-1], Finished)
    again = await events_of(backend, asked("Two."))
    assert not any(isinstance(event, BackendNotice) for event in again)
    await backend.close()
    assert "is not kept: The KV state can't be stored" in caplog.text


def test_a_notice_of_the_backend_is_shown_as_a_warning() -> None:
    sampler = TurnSampler(1, {}, thinking=False, vocabulary=None, new_id=lambda: "i")
    assert sampler.feed(BackendNotice("the disk is full")) == [Notice("warning", "the disk is full")]


async def test_closing_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backend_of(tmp_path)
    await turn(backend, asked("One."))
    given_up = threading.Event()

    def slow(sequence: object, *, cancelled: Callable[[], bool]) -> int:
        while not cancelled():
            time.sleep(0.005)
        given_up.set()
        return 0

    monkeypatch.setattr(backend._engine, "keep", slow)
    monkeypatch.setattr(inprocess, "_PATIENCE", 0.05)
    await asyncio.wait_for(backend.close(), 5)
    await backend.close()
    assert await asyncio.to_thread(given_up.wait, 5)


async def test_a_closing_that_is_cancelled_gives_the_state_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backend_of(tmp_path)
    await turn(backend, asked("One."))
    begun, given_up = threading.Event(), threading.Event()

    def slow(sequence: object, *, cancelled: Callable[[], bool]) -> int:
        begun.set()
        while not cancelled():
            time.sleep(0.005)
        given_up.set()
        return 0

    monkeypatch.setattr(backend._engine, "keep", slow)
    closing = asyncio.create_task(backend.close())
    assert await asyncio.to_thread(begun.wait, 5)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert await asyncio.to_thread(given_up.wait, 5)


async def test_a_prompt_that_is_too_long_is_a_line_with_a_remedy() -> None:
    backend = backend_of(None)
    with pytest.raises(ModelError, match=r"don't fit the context window of 65,536.*Compact"):
        await events_of(backend, [5] * 70_000)
    await backend.close()


@pytest.mark.parametrize("stored", [False, True])
async def test_weights_that_change_under_the_process_are_a_line_with_a_remedy(
    tmp_path: Path, stored: bool
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(WEIGHTS, folder)
    store = PrefixStore(tmp_path / "kv") if stored else None
    engine = Engine.load(folder, options=EngineOptions(native=False, store=store))
    backend = InProcessBackend(engine)
    for file in folder.glob("*.safetensors"):
        data = file.read_bytes()
        file.unlink()
        if not stored:
            file.write_bytes(data)
    with pytest.raises(ModelError, match=r"the model failed: .*safetensors") as caught:
        await events_of(backend, asked("One."))
    assert "\n" not in str(caught.value)
    await backend.close()
