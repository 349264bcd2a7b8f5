from __future__ import annotations

from dsv4_agent.headless.schemas import events_schema
from dsv4_agent.loop.events import Subtype
from dsv4_agent.workbench.exit_codes import MEANING, ExitCode, OwnSubtype, exit_code, table


def test_the_published_numbers() -> None:
    published = {0, 1, 2, 41, 42, 44, 52, 53, 54, 55, 56, 57, 58, 59, 130, 141, 143}
    assert {code.value for code in ExitCode} == published == {code.value for code in MEANING}


def test_every_ending_has_a_code_and_stands_in_the_table() -> None:
    page = table()
    for ending in (*Subtype, *OwnSubtype):
        assert exit_code(ending) in ExitCode
        assert ending.value in page
    assert f"{ExitCode.BUDGET.value}  a budget ran out" in page


def test_the_schema_lists_the_same_endings() -> None:
    listed = events_schema()["$defs"]["result"]["properties"]["subtype"]["enum"]
    assert sorted(listed) == sorted(ending.value for ending in (*Subtype, *OwnSubtype))
