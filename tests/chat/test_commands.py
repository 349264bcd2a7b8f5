"""Slash commands as both front ends see them: lines in, outcomes out."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsv4_agent.chat import outcomes as out
from dsv4_agent.chat.commands import COMMANDS, Commands
from dsv4_agent.chat.dialogue import Dialogue
from dsv4_agent.chat.options import ChatOptions
from dsv4_agent.chat.pages import context_page, share, size
from dsv4_agent.chat.standing_rules import StandingRules, in_words, rules_for
from dsv4_agent.chat.status import Status
from dsv4_agent.loop.facts import Breakdown, KvUse
from dsv4_agent.permissions.rules import parse_rule

WANTED = (
    "help model effort permissions context compact new resume sessions rename "
    "diff undo export copy theme keys doctor quit"
)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.setenv("DSV4_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("DSV4_CONFIG_DIR", str(tmp_path / "config"))
    return Commands(Dialogue(ChatOptions(directory=tmp_path)), [("F1", "help")])


def test_every_promised_command_is_there(commands: Commands) -> None:
    assert set(WANTED.split()) <= {command.name for command in COMMANDS}
    assert {name for name, _ in commands.listing()} == {command.name for command in COMMANDS}


@pytest.mark.parametrize("command", [c.name for c in COMMANDS])
async def test_no_command_fails_before_a_model_is_there(commands: Commands, command: str) -> None:
    for line in (f"/{command}", f"/{command} [/foo] \x1b[2J"):
        for outcome in await commands.run(line):
            assert isinstance(outcome, out.Outcome)


async def test_unknown_commands_and_wrong_arguments_are_said(commands: Commands) -> None:
    for line in ("/nonsense", "/effort enormous", "/permissions sometimes", "/theme pink"):
        (said,) = await commands.run(line)
        assert isinstance(said, out.Say) and said.kind == "error"


async def test_the_mode_is_set(commands: Commands) -> None:
    await commands.run("/permissions plan")
    assert commands._dialogue.status.mode == "plan"


def test_arguments_are_completed(commands: Commands) -> None:
    assert commands.complete("theme", "dsv4-l") == ["dsv4-light"]
    assert commands.complete("effort", "") == ["off", "high", "max"]
    assert commands.complete("quit", "") == []


def test_the_context_page_counts_by_kind() -> None:
    status = Status()
    assert "Nothing has been computed yet" in context_page(status)
    status.kv = KvUse(1_000, 1_048_576, 900, 100, bytes={"window": 1 << 20, "csa_entries": 1 << 10})
    status.breakdown = Breakdown(100, 200, 0, 650, 50)
    page = context_page(status)
    assert "1,000 tokens   < 0.1 % of 1,048,576" in page
    assert "window rows        1.0 MiB" in page
    assert "bytes a token" in page


def test_figures_for_people() -> None:
    assert [share(0, 10), share(1, 10_000), share(1, 3), share(1, 0)] == ["0.0 %", "< 0.1 %", "33.3 %", "-"]
    assert [size(12), size(2048), size(3 << 30)] == ["12 B", "2.0 KiB", "3.0 GiB"]


def test_standing_rules_are_kept_by_project(tmp_path: Path) -> None:
    file = tmp_path / "allowed.json"
    here, there = StandingRules(tmp_path / "a", file), StandingRules(tmp_path / "b", file)
    here.add(rules_for("shell", {"command": "make test && make lint"}))
    here.add((parse_rule("edit"),))
    assert [rule.text for rule in here.load()] == ["shell(make test)", "shell(make lint)", "edit"]
    assert there.load() == ()
    assert here.remove("edit") and not here.remove("edit")
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["{", "[]", '{"x": 3}', '{"/x": ["shell("]}'])
def test_a_damaged_file_of_rules_allows_nothing(tmp_path: Path, text: str) -> None:
    file = tmp_path / "allowed.json"
    file.write_text(text.replace("/x", str(tmp_path.resolve())))
    assert StandingRules(tmp_path, file).load() == ()


@pytest.mark.parametrize("command", ["echo *", "echo $(id)", "if true; then x; fi", "a > b"])
def test_what_rules_can_t_judge_is_not_offered(command: str) -> None:
    assert rules_for("shell", {"command": command}) == ()


def test_rules_in_words() -> None:
    assert in_words(rules_for("write", {"path": "a"})) == "every edit"
    assert in_words(rules_for("shell", {"command": "git status | head -3"})) == "git status, head -3"
