"""`dsv4 model add|list|use|remove|test` and `dsv4 doctor`, as typed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from dsv4_agent.cli import doctor as doctor_command
from dsv4_agent.cli import model as model_command
from dsv4_agent.workbench import keys
from dsv4_agent.workbench.settings import load_settings
from tests.imitated_server import ImitatedServer, vllm

KEY = "sk-the-key-of-this-test"


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DSV4_BASE_URL", "DSV4_API_KEY", "DSV4_MODEL", "DEEPSEEK_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DSV4_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("DSV4_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(keys, "_plausible", lambda: False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "config" / "config.toml"


def model(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(model_command.app, arguments, input=stdin)


def sse(*deltas: dict[str, Any], finish: str) -> tuple[int, bytes]:
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    usage = {"prompt_tokens": 900, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": 800}}
    lines = [json.dumps(chunk) for chunk in [*chunks, {"choices": [], "usage": usage}]]
    return 200, "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]).encode()


def able(body: Any) -> tuple[int, Any]:
    """A model that reads the file it is asked about and says what it found."""
    if not body.get("stream"):
        status, value = vllm()["POST /v1/chat/completions"]  # type: ignore[misc]
        usage = {**value["usage"], "prompt_tokens_details": {"cached_tokens": 0}}
        return status, {**value, "usage": usage}
    results = [message["content"] for message in body["messages"] if message["role"] == "tool"]
    if results:
        return sse({"content": f"It says: {results[-1]}"}, finish="stop")
    function = {"name": "read", "arguments": '{"path": "note.txt"}'}
    call = {"index": 0, "id": "call_1", "type": "function", "function": function}
    return sse({"reasoning": "Read it."}, {"tool_calls": [call]}, finish="tool_calls")


@pytest.fixture
def server() -> Iterator[ImitatedServer]:
    with ImitatedServer({**vllm(), "POST /v1/chat/completions": able}, key=KEY) as server:
        yield server


def test_from_adding_to_removing(config: Path, server: ImitatedServer) -> None:
    added = model("add", "flash", f"{server.url}/v1", "--protocol", "chat", "--key-stdin", stdin=f"{KEY}\n")
    assert added.exit_code == 0 and "dsv4 model test flash" in added.output
    assert KEY not in added.output + config.read_text()
    assert keys.key_file("flash").stat().st_mode & 0o777 == 0o600

    assert model("use", "flash").exit_code == 0
    assert load_settings().model == "flash"
    (line,) = [line for line in model("list").output.splitlines() if line.startswith("*")]
    assert "flash" in line and server.url in line and KEY not in line

    tried = model("test", "flash")
    assert tried.exit_code == 0, tried.output
    assert "called and read back" in tried.output and " right" in tried.output
    assert "1,800 tokens read, 1,600 of them cached, 40 sampled" in tried.output

    removed = model("remove", "flash")
    assert removed.exit_code == 0 and "nano again" in removed.output
    assert not keys.key_file("flash").exists() and "flash" not in config.read_text()


def test_options_of_add(config: Path) -> None:
    options = (
        "--model m --dialect v4-0731 --context 65536 --effort high --temperature 0.5 --key-env FLASH_CRED"
    )
    done = model("add", "flash", "https://gpu.example/v1", *options.split(), "--header", "X-Team: blue")
    assert done.exit_code == 0, done.output
    known = load_settings().models["flash"]
    assert (known.key_env, known.profile.context, known.profile.effort) == ("FLASH_CRED", 65_536, "high")
    assert known.profile.headers == {"X-Team": "blue"}


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (("add", "nano", "http://x"), "the built-in model", 52),
        (("add", "a/b", "http://x"), "can't name a model", 52),
        (("add", "a", "nowhere"), "base_url must be an address", 52),
        (("add", "a", "http://x", "--header", "Authorization: Bearer sk-live"), "--key-stdin", 52),
        (("add", "a", "http://x", "--header", "nonsense"), "NAME:VALUE", 2),
        (("add", "a", "http://x", "--key-stdin"), "no key on stdin", 42),
        (("use", "nothing"), "dsv4 model list", 52),
        (("remove", "nothing"), "no model 'nothing'", 52),
        (("test", "nothing"), "no server 'nothing'", 52),
        (("test", "deepseek"), "DEEPSEEK_API_KEY", 41),
    ],
)
def test_mistakes(config: Path, arguments: tuple[str, ...], said: str, code: int) -> None:
    done = model(*arguments)
    assert done.exit_code == code and said in done.output
    assert "sk-live" not in done.output and not config.exists()


def test_the_list_for_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSV4_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("DSV4_API_KEY", KEY)
    listed = model("list", "--json")
    entries = {entry["name"]: entry for entry in json.loads(listed.output)}
    assert set(entries) == {"nano", "server", "deepseek"} and entries["nano"]["default"]
    assert entries["server"]["key"] == "key: the variable DSV4_API_KEY" and KEY not in listed.output


def test_a_folder_can_be_the_default(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    assert model("use", "./checkpoint").exit_code == 0
    assert load_settings().model == str(tmp_path / "checkpoint")
    assert model("use", "nano").exit_code == 0 and load_settings().model == "nano"


def test_a_model_that_calls_nothing_fails_its_test() -> None:
    def mute(body: Any) -> tuple[int, Any]:
        return able(body) if not body.get("stream") else sse({"content": "I can't see files."}, finish="stop")

    with ImitatedServer({**vllm(), "POST /v1/chat/completions": mute}) as server:
        model("add", "flash", server.url, "--protocol", "chat")
        done = model("test", "flash", "--json")
    data = json.loads(done.output)
    assert done.exit_code == 1 and not data["ok"]
    (problem,) = [found for found in data["findings"] if found["grade"] == "problem"]
    assert problem["text"] == "the model called no tool" and "protocol" in problem["remedy"]


def test_a_dead_server_fails_its_test_with_41() -> None:
    model("add", "dead", "http://127.0.0.1:1")
    done = CliRunner().invoke(model_command.app, ["test", "dead", "--json"])
    assert done.exit_code == 41 and "can't be reached" in json.loads(done.stdout)["error"]


def test_doctor(server: ImitatedServer) -> None:
    model("add", "flash", server.url, "--protocol", "chat", "--key-stdin", stdin=KEY)
    good = CliRunner().invoke(doctor_command.app, ["--json"])
    data = json.loads(good.stdout)
    assert good.exit_code == 0 and data["ok"], data
    assert [one["title"] for one in data["examined"]] == ["machine", "flash"]
    assert KEY not in good.output
    model("add", "dead", "http://127.0.0.1:1")
    bad = CliRunner().invoke(doctor_command.app, ["--model", "dead"])
    assert bad.exit_code == 1 and "! server  model dead" in bad.output and "flash" not in bad.output


@pytest.mark.parametrize("name", ["checkpoint", "scripted:turns.txt"])
def test_what_is_the_default_is_found_from_every_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    assert model("use", name).exit_code == 0
    kind, colon, path = name.rpartition(":")
    assert load_settings().model == f"{kind}{colon}{tmp_path / path}"


def test_a_name_that_is_too_long_for_a_path_is_only_unknown() -> None:
    done = model("use", "a" * 5_000)
    assert done.exit_code == 52 and "there is no model" in done.output


@pytest.mark.parametrize("key", ["two words", "\ufeffsk-1234", ""])
def test_a_model_whose_key_is_none_is_not_added(config: Path, key: str) -> None:
    done = model("add", "flash", "http://h", "--key-stdin", stdin=f"{key}\n")
    assert done.exit_code == 42 and not config.exists()


def test_a_kept_key_goes_to_no_other_address(config: Path) -> None:
    assert model("add", "flash", "https://one.example/v1", "--key-stdin", stdin=KEY).exit_code == 0
    same = model("add", "flash", "HTTPS://one.example:443/v2", "--force")
    assert same.exit_code == 0 and keys.find_key("flash", None, {}) is not None
    other = model("add", "flash", "https://two.example/v1", "--force")
    assert other.exit_code == 52 and "--key-stdin" in other.output and "two" not in config.read_text()
    new = model("add", "flash", "https://two.example/v1", "--force", "--key-stdin", stdin="sk-another")
    assert new.exit_code == 0
    config.write_text("")  # the profile is removed by hand, its key is not
    assert model("add", "flash", "https://three.example").exit_code == 52
    assert model("remove", "flash").exit_code == 0
    assert model("add", "flash", "https://three.example").exit_code == 0


def test_nothing_outside_is_removed_with_a_name_like_a_path(config: Path) -> None:
    config.parent.mkdir()
    config.write_text("")
    assert model("remove", "../config.toml").exit_code == 52
    assert config.exists()


def test_no_stdin_at_all_has_no_key(monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    from dsv4_agent.cli import model_profiles

    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(typer.Exit) as ended:
        model_profiles.add("flash", "http://h", key_stdin=True)
    assert ended.value.exit_code == 42 and not config.exists()
