"""Opening a model: what the user is told about it, and that every failure of the engine is a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the engine's package needs torch")

import torch

from dsv4_agent.backends.inprocess import InProcessBackend
from dsv4_agent.loop.events import Subtype
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.model_options import Effort, EngineChoice, ModelOptions
from dsv4_agent.workbench.models import open_model
from dsv4_model.accounting import CacheFormat
from dsv4_model.engine import CacheMemoryError, Engine
from dsv4_model.kernels import native
from dsv4_model.kernels.library import NativeUnavailableError


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSV4_CONFIG_DIR", str(tmp_path))


def engine_of(options: ModelOptions) -> Engine:
    backend = open_model(options).backend
    assert isinstance(backend, InProcessBackend)
    return backend._engine


def test_choices_reach_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSV4_KV_DIR", str(tmp_path / "kv"))
    threads = torch.get_num_threads()
    choice = EngineChoice(cache_format=CacheFormat.BF16, threads=1, cache_limit=1 << 20)
    engine = engine_of(ModelOptions(engine=choice))
    torch.set_num_threads(threads)
    assert engine.layout.format == "bf16" and engine.options.threads == 1
    store = engine.options.store
    assert store is not None and (store.folder, store.limit) == (tmp_path / "kv", 1 << 20)
    assert engine_of(ModelOptions(engine=EngineChoice(cache_limit=0))).options.store is None


def test_a_slow_engine_is_said_once_before_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*_: Any, **__: Any) -> None:
        raise NativeUnavailableError("There is no compiler.", "Install g++.")

    monkeypatch.setattr(native.NativePasses, "__init__", unavailable)
    notes = open_model(ModelOptions(effort=Effort.MAX)).notes
    assert len(notes) == 2 and "--effort" in notes[1]
    assert notes[0].startswith("Running on PyTorch") and notes[0].endswith("Install g++.")


def test_a_model_over_several_devices_answers_and_says_what_is_slow() -> None:
    opened = open_model(ModelOptions(engine=EngineChoice(device="cpu,cpu", cache_limit=0)))
    assert isinstance(opened.backend, InProcessBackend)
    assert len(opened.backend._engine.stages) == 2
    assert "PyTorch" in opened.notes[0]
    failure = failure_of(ModelOptions(engine=EngineChoice(device="nowhere")))
    assert failure.ending is Subtype.CONFIG and "names no device" in failure.line()


def failure_of(options: ModelOptions) -> RunFailure:
    with pytest.raises(RunFailure) as caught:
        open_model(options)
    assert "\n" not in caught.value.line()
    return caught.value


def test_a_budget_that_is_too_small_says_what_would_do() -> None:
    failure = failure_of(ModelOptions(engine=EngineChoice(memory_budget=1)))
    assert failure.ending is Subtype.CONFIG and "budget" in failure.line()


def test_no_memory_for_a_conversation_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(engine: Engine) -> None:
        raise CacheMemoryError(1 << 30)

    monkeypatch.setattr(Engine, "sequence", full)
    failure = failure_of(ModelOptions())
    assert failure.ending is Subtype.MODEL
    assert "1,073,741,824 more bytes" in failure.line() and "smaller cache format" in failure.line()
