"""Models as other machines open them; what Ray can't be used with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dsv4_agent.batch import ray_cluster
from dsv4_agent.batch.carried_model import CarriedModel
from dsv4_agent.batch.job import ModelChoice
from dsv4_agent.batch.ray_cluster import Cluster, require_ray
from dsv4_agent.workbench.exit_codes import ExitCode
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.model_profiles import KnownProfile
from dsv4_agent.workbench.settings import FILE, load_settings

PROFILE = """
[models.flash]
base_url = "https://gpu.example/v1"
protocol = "chat"
model = "deepseek-v4-flash"
dialect = "v4-0731"
effort = "high"
temperature = 0.5
headers = { X-Team = "a" }
ca_file = "/etc/ca.pem"
key_env = "FLASH"
timeouts = { connect = 3.0 }
prices = { hit = 0.1, miss = 1.0, output = 2.0 }
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSV4_CONFIG_DIR", str(tmp_path))
    (tmp_path / FILE).write_text(PROFILE)
    return tmp_path


def read(folder: Path, name: str) -> KnownProfile:
    return load_settings(folder / FILE).models[name]


def test_a_profile_arrives_as_it_is_and_its_key_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH", "sk-very-secret")
    carried = CarriedModel.of(ModelChoice(name="flash"))
    environment = carried.unpack(folder / "there")
    assert read(folder / "there", "flash").profile == read(folder, "flash").profile
    assert read(folder / "there", "flash").key_env == "DSV4_API_KEY"
    assert environment == {"DSV4_CONFIG_DIR": str(folder / "there"), "DSV4_API_KEY": "sk-very-secret"}
    assert "sk-very-secret" not in (folder / "there" / FILE).read_text() + repr(carried)
    assert (folder / "there" / FILE).stat().st_mode & 0o77 == 0
    assert "FLASH" in carried.secrets


def test_the_server_of_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSV4_BASE_URL", "http://127.0.0.1:8000/v1")
    monkeypatch.setenv("DSV4_SERVER_TOKENIZER", "nano")
    monkeypatch.delenv("DSV4_API_KEY", raising=False)
    carried = CarriedModel.of(ModelChoice(name="server"))
    assert "DSV4_API_KEY" not in carried.unpack(folder / "there")
    profile = read(folder / "there", carried.choice.name).profile
    assert (profile.base_url, profile.tokenizer) == ("http://127.0.0.1:8000/v1", "nano")
    assert carried.is_of_this_machine
    assert not replace(carried, base_url="http://gpu:8000/v1").is_of_this_machine


def test_a_key_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLASH", raising=False)
    with pytest.raises(RunFailure, match="has no key") as failure:
        CarriedModel.of(ModelChoice(name="flash"))
    assert failure.value.code is ExitCode.AUTH


@pytest.mark.parametrize("name", ["nano", "scripted:turns.txt"])
def test_a_model_that_each_process_loads_is_refused(name: str) -> None:
    with pytest.raises(RunFailure, match="needs a model behind a server") as failure:
        CarriedModel.of(ModelChoice(name=name))
    assert (failure.value.code, "dsv4 serve" in failure.value.remedy) == (ExitCode.CONFIG, True)


def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "find_spec", lambda _: None)
    with pytest.raises(RunFailure) as failure:
        require_ray()
    assert failure.value.code is ExitCode.CONFIG
    assert failure.value.line().endswith("Run: pip install 'dsv4-agent[ray]'")


def test_an_address_of_rays_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "require_ray", lambda: None)
    monkeypatch.setenv("DSV4_BASE_URL", "http://127.0.0.1:8000/v1")
    with pytest.raises(RunFailure, match="can't report"):
        Cluster("ray://head:10001", 1).open(CarriedModel.of(ModelChoice(name="server")))
