"""The model of a running server: taken only where it does as well, and its end is explained."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the weights' tokenizer is read with the engine's packages")

from dsv4_agent.backends.base import (
    BackendEvent,
    BackendInfo,
    BackendKind,
    Conversation,
    Finished,
    GenerationRequest,
    ModelError,
    SampledText,
)
from dsv4_agent.dsml.dialect import Dialect, Thinking
from dsv4_agent.dsml.events import FinishReason
from dsv4_agent.dsml.segments import Segment
from dsv4_agent.session.transcript import Transcript
from dsv4_agent.workbench.engine_settings import resolved
from dsv4_agent.workbench.local_servers import LocalServer, announced
from dsv4_agent.workbench.model_options import EngineChoice, ModelOptions
from dsv4_agent.workbench.opened_model import OpenedModel
from dsv4_agent.workbench.warm_backend import WarmBackend
from dsv4_agent.workbench.warm_models import open_warm
from dsv4_model.nano import WEIGHTS
from dsv4_model.tokenizer import Tokenizer
from tests.imitated_server import ImitatedServer

REQUEST = GenerationRequest(max_tokens=9, thinking=Thinking.CHAT, dialect=Dialect.V4)
FINGERPRINT = Tokenizer.from_file(WEIGHTS / "tokenizer.json").fingerprint


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSV4_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("DSV4_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.delenv("DSV4_NO_SERVER", raising=False)
    return tmp_path


@pytest.fixture
def healthy() -> Iterator[str]:
    with ImitatedServer({"GET /health": lambda _: (200, {"status": "ok"})}) as server:
        yield server.url


def announcement(url: object, **changes: object) -> LocalServer:
    choice = resolved(EngineChoice())
    given: dict[str, object] = {
        "url": url,
        "token": "a-token-of-this-test",
        "pid": os.getpid(),
        "model": "nano",
        "identity": "nano",
        "preset": "nano",
        "dialect": "v4",
        "context_window": 8192,
        "tokenizer": FINGERPRINT,
        "cache_format": None if choice.cache_format is None else choice.cache_format.value,
        "started": 1.0,
    }
    return LocalServer(**{**given, **changes})  # type: ignore[arg-type]


def warm(options: ModelOptions | None = None) -> OpenedModel | None:
    return open_warm("nano", options or ModelOptions())


def test_a_server_that_answers_is_taken_and_told_of(healthy: str) -> None:
    with announced(announcement(healthy)):
        opened = warm()
    assert opened is not None and isinstance(opened.backend, WarmBackend)
    assert opened.backend.info.context_window == 8192 and opened.backend.info.tokenizes
    assert opened.preset.name == "nano"
    assert "the running server" in opened.notes[0] and "--no-server" in opened.notes[0]


@pytest.mark.parametrize(
    "options",
    [
        ModelOptions(local_server=False),
        ModelOptions(engine=EngineChoice(threads=1)),
        ModelOptions(engine=EngineChoice(device="cpu")),
        ModelOptions(engine=EngineChoice(memory_budget=1 << 30)),
    ],
)
def test_who_asks_for_an_engine_of_his_own_gets_one(healthy: str, options: ModelOptions) -> None:
    with announced(announcement(healthy)):
        assert warm(options) is None


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer": "another"},
        {"identity": "other"},
        {"cache_format": "odd"},
        {"dialect": "v9"},
        {"url": "http://127.0.0.1:99999/v1"},
        {"started": "yesterday"},
        {"model": None},
        {"context_window": "wide"},
    ],
)
def test_another_model_is_not_taken(healthy: str, change: dict[str, object]) -> None:
    with announced(announcement(**{"url": healthy, **change})):
        assert warm() is None


def test_a_server_that_refuses_health_is_passed_over() -> None:
    with (
        ImitatedServer({"GET /health": lambda _: (503, {})}) as server,
        announced(announcement(server.url)),
    ):
        assert warm() is None


def test_where_nobody_listens_nothing_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with announced(announcement(f"http://127.0.0.1:{port}/v1")):
        assert warm() is None


class Failing:
    """A backend that says a word and then fails."""

    vocabulary = None
    info = BackendInfo("x", BackendKind.SERVER, 4096)
    closed = False

    def __init__(self, error: ModelError | None) -> None:
        self._error = error

    def encode(self, segments: Sequence[Segment]) -> tuple[int, ...] | None:
        return None

    async def generate(
        self, conversation: Conversation, request: GenerationRequest
    ) -> AsyncGenerator[BackendEvent, None]:
        try:
            yield SampledText("a")
            if self._error is not None:
                raise self._error
            yield Finished(FinishReason.STOP)
        finally:
            self.closed = True

    async def close(self) -> None: ...


async def test_the_end_of_a_server_is_told_with_a_remedy() -> None:
    backend = WarmBackend(Failing(ModelError("connection refused", unreachable=True)), "http://127.0.0.1:1")
    with pytest.raises(ModelError) as caught:
        [event async for event in backend.generate(Transcript(), REQUEST)]
    told = str(caught.value)
    assert caught.value.unreachable and "\n" not in told
    assert "has ended" in told and "connection refused" in told
    # A chat goes on asking the same address, so that another server alone is no remedy.
    assert "run the task again" in told and "leave the chat and resume it" in told


async def test_other_errors_stay_as_they_are() -> None:
    error = ModelError("the model failed")
    backend = WarmBackend(Failing(error), "http://127.0.0.1:1")
    with pytest.raises(ModelError) as caught:
        [event async for event in backend.generate(Transcript(), REQUEST)]
    assert caught.value is error


async def test_who_stops_listening_closes_what_is_inside() -> None:
    inside = Failing(None)
    stream = WarmBackend(inside, "http://127.0.0.1:1").generate(Transcript(), REQUEST)
    assert await anext(stream) == SampledText("a")
    await stream.aclose()
    assert inside.closed
