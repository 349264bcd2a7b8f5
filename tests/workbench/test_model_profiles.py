"""Profiles: what may stand in them, what is refused and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsv4_agent.backends.profile import Prices, ServerProtocol, Timeouts
from dsv4_agent.dsml.dialect import Dialect
from dsv4_agent.workbench.model_profiles import (
    KnownProfile,
    Origin,
    all_profiles,
    environment_profile,
    key_variables,
)
from dsv4_agent.workbench.settings import SettingsError, load_settings

WHOLE = """
model = "flash"
[models.flash]
base_url = "https://gpu.example/v1/"
protocol = "tokens"
model = "deepseek-ai/DeepSeek-V4-Flash"
dialect = "v4-0731"
preset = "default"
context = 131072
tokenizer = "~/v4"
effort = "high"
temperature = 0.6
top_p = 1
min_p = 0.05
max_tokens = 32768
headers = { X-Team = "blue" }
ca_file = "~/ca.pem"
proxy = "socks5://127.0.0.1:1080"
key_env = "GPU_CRED"
retries = 2
timeouts = { connect = 3, silence = 30.5 }
prices = { hit = 0.1, miss = 1, output = 2.5, currency = "EUR" }
"""


def read(tmp_path: Path, text: str) -> dict[str, KnownProfile]:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return dict(load_settings(path).models)


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert "\n" not in message and str(tmp_path / "config.toml") in message
    return message


def test_everything_that_may_stand_there(tmp_path: Path) -> None:
    known = read(tmp_path, WHOLE)["flash"]
    profile = known.profile
    assert (known.origin, known.key_env, profile.key) == (Origin.CONFIG, "GPU_CRED", None)
    assert (profile.name, profile.base_url) == ("flash", "https://gpu.example/v1")
    assert (profile.protocol, profile.dialect) == (ServerProtocol.TOKENS, Dialect.V4_0731)
    assert profile.tokenizer == str(Path.home() / "v4") and profile.ca_file == Path.home() / "ca.pem"
    assert (profile.effort, profile.top_p, profile.min_p) == ("high", 1.0, 0.05)
    assert profile.timeouts == Timeouts(connect=3, silence=30.5)
    assert profile.prices == Prices(hit=0.1, miss=1, output=2.5, currency="EUR")
    assert profile.headers == {"X-Team": "blue"} and profile.retries == 2
    assert load_settings(tmp_path / "config.toml").model == "flash"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("colour = 1", "colour is unknown; there are base_url, ca_file, context"),
        ("timeouts = { wait = 1 }", "timeouts.wait is unknown; there are connect, first_token, silence"),
        ("prices = { hit = 1, miss = 1 }", "prices.output is missing"),
        ('protocol = "grpc"', "protocol must be 'tokens' or 'chat'"),
        ("context = true", "context must be"),
        ("context = -1", "context must be"),
        ('effort = "ultra"', "effort must be off, low, high, max"),
        ('proxy = "http://me:secret@proxy"', "proxy must be an address without a user name or password"),
        ('headers = { "X\\n" = "a" }', "headers must be names and values of HTTP headers"),
        ('headers = { X = "a\\r\\nY: b" }', "headers must be names and values of HTTP headers"),
        ("timeouts = { connect = inf }", "timeouts.connect must be"),
        ('key_env = "sk-0123"', "key_env must be the name of an environment variable"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, line: str, said: str) -> None:
    message = refusal(tmp_path, f'[models.a]\nbase_url = "http://x"\n{line}\n')
    assert "[models.a] " in message and said in message
    assert "secret" not in message and "sk-0123" not in message


@pytest.mark.parametrize(
    "url",
    ["gpu.example", "ftp://x", "http://", "https://me:pw@x", "http://x?key=1", "http://x/ y", "http://x:no"],
)
def test_addresses_that_are_none(tmp_path: Path, url: str) -> None:
    assert "base_url must be an address" in refusal(tmp_path, f'[models.a]\nbase_url = "{url}"\n')


def test_a_profile_needs_an_address(tmp_path: Path) -> None:
    assert "base_url is missing" in refusal(tmp_path, "[models.a]\n")


@pytest.mark.parametrize(
    "line",
    [
        'key = "sk-live"',
        'api_key = "sk-live"',
        'API-KEY = "sk-live"',
        'token = "sk-live"',
        'headers = { Authorization = "Bearer sk-live" }',
        'headers = { x-api-key = "sk-live" }',
    ],
)
def test_a_key_is_refused_with_the_remedy_and_not_repeated(tmp_path: Path, line: str) -> None:
    message = refusal(tmp_path, f'[models.a]\nbase_url = "http://x"\n{line}\n')
    assert "key_env" in message and "--key-stdin" in message and "sk-live" not in message


@pytest.mark.parametrize("name", ["nano", "server", '"scripted:x"', '"a/b"', '".."', '""', '"two words"'])
def test_names_that_mean_something_else(tmp_path: Path, name: str) -> None:
    assert (
        "choose another name" in (message := refusal(tmp_path, f"[models.{name}]\n"))
        or "use letters" in message
    )


def test_the_environment_s_profile() -> None:
    assert environment_profile({}) is None
    known = environment_profile(
        {
            "DSV4_BASE_URL": "http://127.0.0.1:8000/v1",
            "DSV4_SERVER_MODEL": "m",
            "DSV4_SERVER_PROTOCOL": "chat",
            "DSV4_SERVER_CONTEXT": "65536",
            "DSV4_API_KEY": "sk-secret",
        }
    )
    assert known is not None and known.key_env == "DSV4_API_KEY" and "sk-secret" not in repr(known)
    profile = known.profile
    assert (profile.name, profile.model, profile.context) == ("server", "m", 65_536)
    with pytest.raises(SettingsError, match="DSV4_SERVER_MODEL"):
        environment_profile({"DSV4_BASE_URL": "http://x", "DSV4_SERVER_CONTEXT": "large"})


def test_deepseek_is_built_in_until_it_is_replaced(tmp_path: Path) -> None:
    built_in = all_profiles({}, {})["deepseek"]
    assert built_in.profile.base_url == "https://api.deepseek.com" and built_in.key_env == "DEEPSEEK_API_KEY"
    own = read(tmp_path, '[models.deepseek]\nbase_url = "https://mirror.example"\nkey_env = "M"\n')
    found = all_profiles(own, {"DSV4_BASE_URL": "http://x"})
    assert found["deepseek"].profile.base_url == "https://mirror.example"
    assert key_variables(found.values()) == {"M", "DSV4_API_KEY"}
