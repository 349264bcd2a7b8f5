"""The command line of `dsv4 chat`, as far as it goes without a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dsv4_agent.chat.options import ChatOptions
from dsv4_agent.cli import chat as module
from dsv4_agent.cli.front_end import wants_plain
from dsv4_agent.permissions.decision import PermissionMode
from dsv4_agent.workbench.settings import FILE, Settings


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, object]:
    seen: dict[str, object] = {}

    def screen(options: ChatOptions, settings: Settings) -> int:
        seen.update(front="screen", options=options, settings=settings)
        return 0

    def plain(options: ChatOptions) -> int:
        seen.update(front="plain", options=options)
        return 0

    monkeypatch.setattr(module, "_screen", screen)
    monkeypatch.setattr(module, "_plain", plain)
    monkeypatch.setattr(module, "wants_plain", lambda: False)
    monkeypatch.setenv("DSV4_CONFIG_DIR", str(tmp_path))
    monkeypatch.delenv("DSV4_MODEL", raising=False)
    return seen


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(module.app, list(arguments))
    return result.exit_code, result.output


def test_options_reach_the_chat(started: dict[str, object], tmp_path: Path) -> None:
    code, _ = run(
        "-C", str(tmp_path), "-m", "x", "--continue", "--permission-mode", "plan", "--effort", "max"
    )
    options = started["options"]
    assert code == 0 and started["front"] == "screen" and isinstance(options, ChatOptions)
    assert (options.model.name, options.resume, options.permission_mode) == ("x", "last", PermissionMode.PLAN)


def test_settings_are_the_defaults_and_options_win(started: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('[chat]\nmodel = "mine"\npermission_mode = "auto"\n')
    run()
    options = started["options"]
    assert isinstance(options, ChatOptions)
    assert (options.model.name, options.permission_mode) == ("mine", PermissionMode.AUTO)
    run("--model", "other", "--permission-mode", "default")
    options = started["options"]
    assert isinstance(options, ChatOptions)
    assert (options.model.name, options.permission_mode) == ("other", PermissionMode.DEFAULT)


def test_plain_is_chosen(started: dict[str, object]) -> None:
    run("--plain")
    assert started["front"] == "plain"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tui]\ncolour = 1\n", "[tui] colour is unknown"),
        ("tui = 3\n", "tui must be a table"),
        ("[tui]\ntheme = 3\n", "theme must be a text"),
        ("[chat]\npermission_mode = 'never'\n", "never"),
        ("[[[\n", "can't be read"),
        ("[keys]\na = 1\n", "a must be a text"),
    ],
)
def test_wrong_settings_are_one_line(
    started: dict[str, object], tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / FILE).write_text(text)
    code, output = run()
    assert code == 52
    assert said in output and output.count("\n") == 1
    assert not started


def test_a_key_for_a_binding_that_nothing_has_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DSV4_CONFIG_DIR", str(tmp_path))
    settings = Settings(keys={"app.cycle_mod": "f2", "app.leave": "f3"})
    assert module._screen(ChatOptions(directory=tmp_path), settings) == 52
    said = capsys.readouterr().err
    assert "[keys] app.cycle_mod is unknown; see dsv4 help settings" in said and said.count("\n") == 1


def test_a_missing_directory_and_a_bad_rule(started: dict[str, object]) -> None:
    assert run("-C", "/nowhere/at/all")[0] == 42
    assert run("--allowed-tools", "shell(")[0] == 2
    assert not started


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"TERM": "xterm-256color"}, False),
        ({"TERM": "dumb"}, True),
        ({}, True),
        ({"TERM": "xterm", "DSV4_PLAIN": "1"}, True),
        ({"TERM": "xterm", "ACCESSIBILITY_ENABLED": "1"}, True),
        ({"TERM": "xterm", "ACCESSIBILITY_ENABLED": "0"}, False),
    ],
)
def test_the_front_end_suits_the_terminal(
    environment: dict[str, str], wanted: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(f"sys.{name}.isatty", lambda: True, raising=False)
    assert wants_plain(environment, tmp_path) is wanted
    process = tmp_path / "123"
    process.mkdir()
    (process / "comm").write_text("orca\n")
    assert wants_plain(environment, tmp_path)
    assert wants_plain(environment, tmp_path / "nowhere") is wanted
