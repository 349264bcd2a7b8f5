"""What a run without a screen shows of a turn that broke off, and of what the turns cost."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from dsv4_agent.headless.conclusion import failed
from dsv4_agent.headless.progress import Progress
from dsv4_agent.headless.summary import markdown
from dsv4_agent.loop.events import (
    AgentMessageItem,
    Event,
    ItemCompleted,
    ItemStarted,
    ReasoningItem,
    Retry,
    Subtype,
)
from dsv4_agent.loop.facts import Discarded
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.money import price

BROKEN: list[Event] = [
    ItemStarted(ReasoningItem("r")),
    ItemCompleted(ReasoningItem("r", "Hm.")),
    ItemStarted(AgentMessageItem("a")),
    ItemCompleted(AgentMessageItem("a", "Half an ans", partial=True)),
    Retry(2, 5, "stream_broken", 1500, Discarded("Hm.", "Half an ans", "")),
    ItemStarted(AgentMessageItem("b")),
    ItemCompleted(AgentMessageItem("b", "All of it.")),
    ItemStarted(ReasoningItem("x")),
]


def test_the_progress_tells_what_was_dropped() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    for event in BROKEN:
        progress.show(event)
    assert stream.getvalue().splitlines() == [
        "  Hm.",
        "  Half an ans",
        "  dropped: the turn broke off and begins anew",
        "dsv4: retrying 2 of 5 in 1.5 s: stream_broken",
        "All of it.",
    ]


@pytest.mark.parametrize("shown", [True, False])
def test_discarded_reasoning_is_as_private_as_any(
    shown: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dsv4_agent.headless.reporter import Reporter

    lines: list[dict[str, Any]] = []

    class Output:
        broken = False

        def write_json(self, value: dict[str, Any]) -> None:
            lines.append(value)

    class Options:
        output_format = "stream-json"
        include_reasoning = shown
        include_partial = False

    reporter = Reporter(Options(), Output(), Progress(None))  # type: ignore[arg-type]
    for event in BROKEN:
        reporter.event(event)
    assert ("Hm." in json.dumps(lines)) is shown
    (retry,) = [line for line in lines if line["type"] == "retry"]
    assert retry["discarded"]["content"] == "Half an ans"


def test_the_summary_tells_the_cost_where_it_is_known() -> None:
    result: dict[str, Any] = failed(RunFailure(Subtype.MODEL, "broken"), "id")
    assert "USD" not in markdown(result)
    result["usage"] |= {"cost": 0.0123, "currency": "USD"}
    assert "0 output tokens, 0.0123 USD, session `id`" in markdown(result)


def test_amounts_have_the_digits_that_they_need() -> None:
    assert [price(cost, "USD") for cost in (0.0, 0.00001, 0.0042, 12.3, 1234.5)] == [
        "0.0000 USD", "< 0.0001 USD", "0.0042 USD", "12.30 USD", "1,234.50 USD"
    ]  # fmt: skip
    assert price(2, None) == "2.00"
