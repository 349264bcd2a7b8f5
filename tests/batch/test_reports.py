"""Reports: well-formed whatever an item, a model or a check says."""

from __future__ import annotations

import io
import json
from xml.etree import ElementTree as Xml

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dsv4_agent.batch.events import (
    BatchEnded,
    BatchEvent,
    BatchStarted,
    Delivered,
    ItemEnded,
    ItemIntegrated,
    ItemStarted,
)
from dsv4_agent.batch.executor import ItemProgress
from dsv4_agent.batch.integration import Integrated
from dsv4_agent.batch.report.junit import junit
from dsv4_agent.batch.report.lines import Lines
from dsv4_agent.batch.report.markdown import markdown
from dsv4_agent.batch.report.records import record
from dsv4_agent.batch.report.sarif import sarif
from dsv4_agent.batch.report.table import LiveTable
from dsv4_agent.batch.report.wording import duration
from dsv4_agent.batch.states import ItemResult, Spent, State

HOSTILE = "\x1b[2J\x1b]52;c;aGk=\x07 | `x` <b> [a](http://x) @all </details> \u202e \x00 \ud800 ]]> &"
RESULTS = (
    ItemResult("one", State.DONE, files=("a.py",), insertions=2, deletions=1, answer="Done."),
    ItemResult("two", State.NO_CHANGE),
    ItemResult(
        "three",
        State.VERIFY_FAILED,
        "`pytest -q` exited 1",
        files=("src/b.py",),
        output=(
            "src/b.py:12:5: F401 unused import\n/abs/c.py:1: no\n../up.py:3: no\n"
            '  File "tests/test_b.py", line 7, in test\nTime: 12:30:01 ok\n'
        ),
        spent=Spent(100, 40, 10, 2, 1.5),
    ),
    ItemResult("four", State.CONFLICT, "conflict in src/b.py", files=("src/b.py", "other.py")),
    ItemResult("five", State.ERROR, HOSTILE, output=HOSTILE, answer=HOSTILE),
    ItemResult("six", State.SKIPPED, "the batch's time of 3 s is over"),
    ItemResult("seven", State.BUDGET, "stopped after 2 turns (--max-turns)"),
)
ENDED = BatchEnded("run-1", RESULTS, Spent(100, 40, 10, 2, 1.5), 65.0, True)
EVENTS: tuple[BatchEvent, ...] = (
    BatchStarted("run-1", len(RESULTS), 0, 2),
    ItemStarted("one", False),
    ItemProgress("one", "turn 1"),
    ItemStarted("five", True),
    ItemProgress("five", HOSTILE),
    *(ItemEnded(result) for result in RESULTS),
    ItemIntegrated(Integrated("one", "abc", State.DONE)),
    ItemIntegrated(Integrated("four", None, State.CONFLICT, "conflict in " + HOSTILE)),
    Delivered("branch", "dsv4/batch"),
    ENDED,
)


def test_junit() -> None:
    root = Xml.fromstring(junit(ENDED, "my batch"))
    suite = root[0]
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "7", "failures": "2", "errors": "2", "skipped": "1"}
    cases = {case.get("name"): case for case in suite}
    assert cases["three"].find("failure").get("message") == "`pytest -q` exited 1"  # type: ignore[union-attr]
    assert "F401" in (cases["three"].find("failure").text or "")  # type: ignore[union-attr]
    assert list(cases["two"]) == []


def test_markdown() -> None:
    text = markdown(ENDED, "my|batch")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(RESULTS)
    assert all(row.count("|") == 6 for row in rows), rows
    assert "1 done, 1 no_change, 1 verify_failed, 1 conflict, 1 error, 1 skipped, 1 budget" in text
    outside = text.split("```")[::2]
    for sign in ("<b>", "](http", "\x1b", "\u202e", "@all"):
        assert not any(sign in part for part in outside), sign


def test_sarif_has_places_inside_the_repository_only() -> None:
    document = json.loads(sarif(ENDED))
    [run] = document["runs"]
    found = []
    for result in run["results"]:
        [location] = result["locations"]
        place = location["physicalLocation"]
        found.append(
            (result["ruleId"], place["artifactLocation"]["uri"], place.get("region", {}).get("startLine"))
        )
    assert found == [
        ("verify_failed", "src/b.py", 12),
        ("verify_failed", "tests/test_b.py", 7),
        ("conflict", "src/b.py", None),
    ]


def test_records_are_json_lines_that_do_nothing_to_a_terminal() -> None:
    rows = [record(event) for event in EVENTS]
    types = [json.loads(row)["type"] for row in rows]
    assert (types[0], types[-1]) == ("batch.started", "batch.ended")
    for row in rows:
        row.encode()
        assert not any(ord(char) < 32 or char == "\u202e" for char in row), row
    last = json.loads(rows[-1])
    assert last["counts"]["conflict"] == 1
    assert len(last["items"]) == len(RESULTS)


def test_lines() -> None:
    said: list[str] = []
    lines = Lines(said.append)
    for event in EVENTS:
        lines.show(event)
    assert said[0] == "batch run-1: 7 items, 2 at once"
    assert "[1/7] verified: one; 1 file +2 -1" in said
    assert "[7/7] budget: seven; stopped after 2 turns (--max-turns)" in said
    assert any(line.startswith("conflict: four") for line in said)
    assert not any("\x1b" in line or "\n" in line for line in said)
    assert "turn 1" not in "".join(said)


def test_the_live_table_shows_all_and_obeys_nobody() -> None:
    out = io.StringIO()
    table = LiveTable(
        Console(file=out, force_terminal=True, width=100, color_system=None, legacy_windows=False)
    )
    for event in EVENTS:
        table.show(event)
    table.close()
    text = out.getvalue()
    assert "✓ verified one" in text
    assert "≠ conflict four" in text
    assert "]52;" not in text.replace("\\x1b]52;", "")
    assert "\x1b[2J" not in text
    assert "\u202e" not in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (242, "4 min 02 s"), (3900, "1 h 05 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.text(max_size=60), st.text(max_size=60), st.sampled_from(list(State)))
def test_any_text_goes_through_every_report(reason: str, output: str, state: State) -> None:
    result = ItemResult("x", state, reason, files=(reason,), output=output, answer=output)
    ended = BatchEnded("r", (result,), Spent(), 1.0, True)
    Xml.fromstring(junit(ended, reason))
    json.loads(sarif(ended))
    json.loads(record(ended))
    markdown(ended, reason).encode()
