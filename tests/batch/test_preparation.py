"""What is found out before a batch begins."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from dsv4_agent.batch.plan import parse_plan
from dsv4_agent.batch.preparation import prepare


def test_items_of_a_command_where_the_folder_for_temporary_files_has_a_blank(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "for a while").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "for a while"))
    plan = parse_plan({"prompt": "Do {line}.", "items": {"command": "echo a; echo b"}}, "plan.toml")
    prepared = prepare(plan, repository, tmp_path)
    assert [item.id for item in prepared.charter.items] == ["a", "b"]


@pytest.mark.parametrize(("deliver", "noted"), [("patches", True), ("commits", False)])
def test_a_branch_that_nothing_makes_is_noted(
    repository: Path, tmp_path: Path, deliver: str, noted: bool
) -> None:
    data = {"prompt": "x", "items": {"command": "echo a"}, "branch": "mine/here", "deliver": deliver}
    notes = prepare(parse_plan(data, "plan.toml"), repository, tmp_path).notes
    assert any("no branch mine/here will be made" in note for note in notes) is noted
