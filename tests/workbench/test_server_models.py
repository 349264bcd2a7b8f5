"""From the name of a profile to a backend: what is asked, refused, remembered and told."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dsv4_agent.backends.base import BackendKind, GenerationRequest, ModelError
from dsv4_agent.backends.chat_server.backend import ChatServerBackend
from dsv4_agent.backends.facts import ServerFacts, ServerKind
from dsv4_agent.backends.probe.light import Probed
from dsv4_agent.backends.profile import ServerProfile, ServerProtocol
from dsv4_agent.dsml.dialect import Dialect, Thinking
from dsv4_agent.loop.events import Subtype
from dsv4_agent.session.transcript import Transcript
from dsv4_agent.workbench import remembered_facts
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.model_options import Effort, EngineChoice, ModelOptions
from dsv4_agent.workbench.models import open_model
from dsv4_agent.workbench.opened_model import OpenedModel
from dsv4_agent.workbench.server_models import ServerModel, open_probed
from tests.imitated_server import ImitatedServer, model_list, vllm

FLASH = ServerProfile(name="flash", base_url="http://127.0.0.1:1", protocol=ServerProtocol.CHAT, model="m")
FACTS = ServerFacts(kind=ServerKind.VLLM, model="m", context=131_072, dialect=Dialect.V4_0731)


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSV4_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("DSV4_STATE_DIR", str(tmp_path / "state"))
    for name in [name for name in os.environ if name.startswith(("DSV4_SERVER", "DSV4_BASE", "DSV4_API"))]:
        monkeypatch.delenv(name)
    (tmp_path / "config").mkdir()
    return tmp_path


@pytest.fixture
def server() -> Iterator[ImitatedServer]:
    with ImitatedServer(vllm()) as server:
        yield server


def write(places: Path, text: str) -> None:
    (places / "config" / "config.toml").write_text(text)


def opened(profile: ServerProfile = FLASH, facts: ServerFacts = FACTS, **options: object) -> OpenedModel:
    return open_probed(ServerModel(profile, Probed(facts)), ModelOptions(**options))  # type: ignore[arg-type]


def failure(options: ModelOptions) -> RunFailure:
    with pytest.raises(RunFailure) as caught:
        open_model(options)
    assert "\n" not in caught.value.line()
    return caught.value


def test_a_profile_is_opened_by_its_name(places: Path, server: ImitatedServer) -> None:
    write(
        places,
        f'model = "flash"\n[models.flash]\nbase_url = "{server.url}"\nprotocol = "chat"\neffort = "low"\n',
    )
    for options in (ModelOptions(name="flash"), ModelOptions()):
        model = open_model(options)
        assert isinstance(model.backend, ChatServerBackend) and not model.notes
        info = model.backend.info
        assert (info.kind, info.context_window) == (BackendKind.SERVER, 131_072)
        assert info.id == "deepseek-ai/DeepSeek-V4-Flash-0731"
        assert (model.preset.dialect, model.preset.effort) == (Dialect.V4_0731, "low")


def test_a_folder_of_the_same_name_is_not_taken_for_it(
    places: Path, server: ImitatedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (places / "flash").mkdir()
    monkeypatch.chdir(places)
    write(places, f'[models.flash]\nbase_url = "{server.url}"\nprotocol = "chat"\n')
    assert isinstance(open_model(ModelOptions(name="flash")).backend, ChatServerBackend)


def test_nothing_of_a_repository_counts(
    places: Path, server: ImitatedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = places / "repository"
    for folder in (repository, repository / ".dsv4"):
        folder.mkdir()
        address = f'base_url = "{server.url}"\n'
        text = f'model = "evil"\n[models.evil]\n{address}[models.deepseek]\n{address}'
        (folder / "config.toml").write_text(text)
    (repository / ".env").write_text(f"DSV4_BASE_URL={server.url}\n")
    monkeypatch.chdir(repository)
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-1")
    assert "there is no model 'evil'" in failure(ModelOptions(name="evil")).line()
    assert "DSV4_BASE_URL" in failure(ModelOptions(name="server")).line()
    known = open_model(ModelOptions(name="deepseek"))
    assert known.backend.info.id == "deepseek-v4-pro" and server.asked == []


def test_the_environment_s_server(server: ImitatedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSV4_BASE_URL", server.url)
    monkeypatch.setenv("DSV4_SERVER_PROTOCOL", "chat")
    server.key = "sk-1"
    refused = failure(ModelOptions(name="server"))
    assert (refused.ending, int(refused.code)) == (Subtype.AUTH, 41)
    monkeypatch.setenv("DSV4_API_KEY", "sk-1")
    assert open_model(ModelOptions(name="server")).backend.info.kind is BackendKind.SERVER


def test_settings_can_be_left_out(places: Path, server: ImitatedServer) -> None:
    write(places, f'[models.flash]\nbase_url = "{server.url}"\n')
    bare = ModelOptions(name="flash", engine=EngineChoice(user_settings=False))
    assert failure(bare).ending is Subtype.CONFIG and server.asked == []


def test_an_unknown_name_lists_those_there_are(places: Path) -> None:
    write(places, '[models.flash]\nbase_url = "http://x"\n')
    line = failure(ModelOptions(name="flesh")).line()
    assert "'flesh'" in line and "deepseek, flash" in line


def test_a_dead_server_is_41(places: Path) -> None:
    write(places, '[models.flash]\nbase_url = "http://127.0.0.1:1"\n')
    found = failure(ModelOptions(name="flash"))
    assert int(found.code) == 41 and "model flash: the server 127.0.0.1:1 can't be reached" in found.line()


def test_a_named_key_that_isn_t_there_is_41_before_anything_is_sent(
    places: Path, server: ImitatedServer
) -> None:
    write(places, f'[models.flash]\nbase_url = "{server.url}"\nkey_env = "FLASH_CRED"\n')
    found = failure(ModelOptions(name="flash"))
    assert int(found.code) == 41 and "FLASH_CRED" in found.line() and server.asked == []


def test_a_window_of_nothing_is_hopeless(places: Path) -> None:
    tiny = model_list({"id": "v4", "owned_by": "vllm", "max_model_len": 2_048})
    with ImitatedServer({"GET /v1/models": tiny}) as server:
        write(places, f'[models.tiny]\nbase_url = "{server.url}"\nprotocol = "chat"\n')
        found = failure(ModelOptions(name="tiny"))
    assert found.ending is Subtype.CONFIG and "2,048 tokens, and the agent needs 8,192" in found.line()


def test_the_smaller_window_counts() -> None:
    assert opened().backend.info.context_window == 131_072
    assert opened(replace(FLASH, context=65_536)).backend.info.context_window == 65_536
    assert opened(replace(FLASH, context=1 << 20)).backend.info.context_window == 131_072


def test_sampling_profile_then_command_line() -> None:
    own = replace(FLASH, temperature=0.3, top_p=0.9, min_p=0.1, max_tokens=4_096)
    preset = opened(own).preset
    assert (preset.temperature, preset.top_p, preset.min_p) == (0.3, 0.9, 0.1)
    assert preset.max_tokens_per_turn == 4_096
    preset = opened(own, temperature=0.7).preset
    assert (preset.temperature, preset.top_p) == (0.7, 0.9)


def test_efforts() -> None:
    assert opened(replace(FLASH, effort="off")).preset.thinking is Thinking.CHAT
    assert opened(replace(FLASH, effort="off"), effort=Effort.HIGH).preset.effort == "high"
    (note,) = opened(effort=Effort.MAX).notes
    assert "393,216" in note
    (note,) = opened(facts=replace(FACTS, kind=ServerKind.OPENAI), effort=Effort.OFF).notes
    assert "no effect" in note
    tokens = replace(
        FLASH, protocol=ServerProtocol.TOKENS, tokenizer="nano", dialect=Dialect.V4, effort="low"
    )
    with pytest.raises(RunFailure, match="Invalid reasoning effort: low"):
        opened(tokens)


def test_nano_behind_a_server_has_its_own_preset() -> None:
    model = opened(facts=replace(FACTS, preset="nano"), effort=Effort.MAX)
    assert model.preset.name == "nano" and "--effort has no effect" in model.notes[-1]


def test_an_open_event_loop_is_no_obstacle(server: ImitatedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    monkeypatch.setenv("DSV4_BASE_URL", server.url)
    monkeypatch.setenv("DSV4_SERVER_PROTOCOL", "chat")

    async def inside() -> OpenedModel:
        return open_model(ModelOptions(name="server"))

    assert asyncio.run(inside()).backend.info.context_window == 131_072


def test_remote_servers_are_remembered_for_a_while() -> None:
    far = replace(FLASH, base_url="https://gpu.example/v1")
    facts = replace(FACTS, problems=("a: b",), protocols=(ServerProtocol.CHAT,), thinks=True)
    remembered_facts.remember(far, facts)
    assert remembered_facts.recall(far) == facts
    assert remembered_facts.recall(replace(far, model="other")) is None
    (file,) = (Path(os.environ["DSV4_STATE_DIR"]) / "servers").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    os.utime(file, (0, 0))
    assert remembered_facts.recall(far) is None
    file.write_text('{"kind": "weird"}')
    assert remembered_facts.recall(far) is None
    remembered_facts.remember(FLASH, facts)
    assert remembered_facts.recall(FLASH) is None


async def asked_of(model: OpenedModel) -> list[str]:
    """The kinds of the events of a turn."""
    events = model.backend.generate(Transcript(), GenerationRequest(64, Thinking.CHAT, Dialect.V4))
    try:
        return [type(event).__name__ async for event in events]
    finally:
        await model.backend.close()


async def test_a_server_that_has_become_another_is_asked_anew_after_one_failure(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered_facts, "is_near", lambda profile: False)
    names = ["one"]

    def chat(body: Any) -> tuple[int, Any]:
        if body["model"] != names[0]:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        choice = {"index": 0, "delta": {"content": "Hi."}, "finish_reason": "stop"}
        return 200, f"data: {json.dumps({'choices': [choice]})}\n\ndata: [DONE]\n\n".encode()

    def listing(body: Any) -> tuple[int, Any]:
        return model_list({"id": names[0]})

    with ImitatedServer({"GET /v1/models": listing, "POST /v1/chat/completions": chat}) as server:
        write(places, f'[models.flash]\nbase_url = "{server.url}"\n')
        assert "Finished" in await asked_of(open_model(ModelOptions(name="flash")))
        names[0] = "two"
        with pytest.raises(ModelError, match="run the task again"):
            await asked_of(open_model(ModelOptions(name="flash")))
        assert "Finished" in await asked_of(open_model(ModelOptions(name="flash")))
        assert server.asked.count("GET /v1/models") == 2
