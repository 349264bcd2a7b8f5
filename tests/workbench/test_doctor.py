"""An examination: what is found, graded and advised; nothing is said of keys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dsv4_agent.workbench.doctor import examine, own_folders
from dsv4_agent.workbench.findings import Finding, Grade, any_problem, as_lines, of_line
from tests.imitated_server import ImitatedServer, vllm


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSV4_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("DSV4_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "config").mkdir(mode=0o700)
    return tmp_path


def by_name(title: str, only: str | None = None, **environment: str) -> dict[str, Finding]:
    found = {one.title: one for one in examine({**os.environ, **environment}, only)}
    return {finding.name: finding for finding in found[title].findings}


def test_the_machine() -> None:
    found = by_name("machine")
    assert {"version", "git", "sandbox", "engine", "resources", "settings", "default model"} <= set(found)
    assert found["default model"].text == "nano" and found["version"].grade is Grade.OK


def test_missing_programs_come_with_a_remedy(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(places))
    found = by_name("machine", PATH=str(places))
    assert found["git"].grade is Grade.PROBLEM and found["git"].remedy == "Install git"
    assert found["sandbox"].grade is Grade.NOTE and "bubblewrap" in found["sandbox"].remedy


def test_a_default_model_that_is_gone(places: Path) -> None:
    (places / "config" / "config.toml").write_text('model = "gone"\n')
    found = by_name("machine")["default model"]
    assert found.grade is Grade.PROBLEM and "gone" in found.text and "dsv4 model use" in found.remedy


def test_broken_settings_are_found_once_and_stop_nothing(places: Path) -> None:
    (places / "config" / "config.toml").write_text("[models.a]\n")
    problems = [finding for finding in own_folders() if finding.grade is Grade.PROBLEM]
    assert len(problems) == 1 and "base_url is missing" in problems[0].text


@pytest.mark.skipif(os.geteuid() == 0 and not os.access("/", os.W_OK), reason="needs a usual file system")
def test_folders_that_others_may_write(places: Path) -> None:
    (places / "config").chmod(0o777)
    found = next(finding for finding in own_folders() if finding.name == "settings")
    assert found.grade is Grade.PROBLEM and found.remedy == f"Run: chmod go-w {places / 'config'}"


def test_servers_answer_or_not(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH_CRED", "sk-very-secret")
    with ImitatedServer(vllm(), key="sk-very-secret") as server:
        text = f'base_url = "{server.url}"\nprotocol = "chat"\n'
        (places / "config" / "config.toml").write_text(
            f'[models.good]\n{text}key_env = "FLASH_CRED"\n[models.keyless]\n{text}'
            '[models.dead]\nbase_url = "http://127.0.0.1:1"\n'
        )
        examined = {one.title: one for one in examine(os.environ)}
    assert sorted(examined) == ["dead", "good", "keyless", "machine"]
    assert not any_problem(examined["good"].findings)
    assert any("131,072 tokens" in line for line in as_lines(examined["good"].findings))
    for name in ("keyless", "dead"):
        (problem,) = examined[name].findings
        assert problem.grade is Grade.PROBLEM and problem.remedy
    assert "sk-very-secret" not in str(examined)
    assert [one.title for one in examine(os.environ, "dead")] == ["machine", "dead"]
    assert "there is no server 'x'" in examine(os.environ, "x")[1].findings[0].text


def test_lines_are_harmless() -> None:
    (line,) = as_lines([Finding("a", Grade.PROBLEM, "bad \x1b[2J name", "Mend it")])
    assert line == r"! a  bad \x1b[2J name. Mend it."
    assert of_line("x", "the server is old; update it") == Finding(
        "x", Grade.PROBLEM, "the server is old", "Update it"
    )
