"""`dsv4 help batch` and docs/batch.md say what plans really are."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from dsv4_agent.batch.plan import Budget, Items, Plan, Total, parse_plan
from dsv4_agent.batch.states import State
from dsv4_agent.cli import help_topics

TOP = Path(__file__).parents[2]


def test_the_page_shows_a_good_plan() -> None:
    rows = [row for row in help_topics._BATCH.splitlines() if row.startswith("  ")]
    plan = parse_plan(tomllib.loads("\n".join(rows)), "page")
    assert plan.verify[1].startswith("! grep")
    others = [row for row in rows if row.startswith("  # items")]
    assert len(others) == 4
    for row in others:
        Items.model_validate(tomllib.loads(row.removeprefix("  # ").partition("    {")[0])["items"])


@pytest.mark.parametrize("page", ["help", "docs"])
def test_every_key_and_state_is_there(page: str) -> None:
    text = help_topics._BATCH if page == "help" else (TOP / "docs" / "batch.md").read_text()
    names = {name for model in (Plan, Budget, Total) for name in model.model_fields} | set(State)
    if page == "docs":
        names |= set(Items.model_fields)
    assert [name for name in sorted(names) if name not in text] == []


def test_the_documented_plan_is_good() -> None:
    text = (TOP / "docs" / "batch.md").read_text()
    block = text.partition("```toml\n")[2].partition("```")[0]
    assert parse_plan(tomllib.loads(block), "docs").items.jsonl == "items.jsonl"
