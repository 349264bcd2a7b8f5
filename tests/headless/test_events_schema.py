"""The published schema, a golden file for every event, and the loop's own types against both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dsv4_agent.headless.schemas import events_schema
from dsv4_agent.headless.standard_output import json_line
from dsv4_agent.loop import events as e
from dsv4_agent.loop import facts
from dsv4_agent.loop.event_json import from_json, to_json

GOLDEN = Path(__file__).parent / "golden_events.jsonl"
SCHEMA = jsonschema.Draft202012Validator(events_schema())
USAGE = facts.Usage(10, 4, 5, 2)
DENIED = e.PermissionDenied("shell", {"command": "rm -rf /"}, "critical-path", "builtin", "it could destroy")
DONE, FAILED = e.ItemStatus.COMPLETED, e.ItemStatus.FAILED
CHANGE = e.FileChangeInfo("a.py", "update", 3, 1, "@@ -1 +1 @@\n-a\n+b")
COMMAND = e.CommandExecutionItem("i2", "pytest -q", sandboxed=True)

EXAMPLES: dict[str, e.Event] = {
    "init": e.Init(
        session_id="s", dsv4_version="0.1.0", model=facts.ModelInfo("nano", "inprocess", 4096), cwd="/w",
        git=facts.GitInfo("abc", "main", False), tools=("read",),
        sandbox=facts.SandboxInfo("off", "off", "on"), capabilities=("output_schema",),
    ),
    "init without repository": e.Init(
        session_id="s", dsv4_version="0.1.0", model=facts.ModelInfo("x", "scripted", 4096), cwd="/w",
        sandbox=facts.SandboxInfo("workspace-write", "off", "on", True, "bwrap is not installed"),
    ),
    "user.message": e.UserMessage("hello"),
    "turn.started": e.TurnStarted(1),
    "reasoning started": e.ItemStarted(e.ReasoningItem("i1")),
    "reasoning": e.ItemCompleted(e.ReasoningItem("i1", "thinking", 12)),
    "reasoning cut off": e.ItemCompleted(e.ReasoningItem("i1", "thinki", 2, partial=True)),
    "message started": e.ItemStarted(e.AgentMessageItem("i1")),
    "message": e.ItemCompleted(e.AgentMessageItem("i1", "hello")),
    "command started": e.ItemStarted(COMMAND),
    "command": e.ItemCompleted(
        e.CommandExecutionItem("i2", "ls", status=DONE, exit_code=0, output="a", duration_ms=9)
    ),
    "edit started": e.ItemStarted(e.FileChangeItem("i3", "edit", "a.py")),
    "edit": e.ItemCompleted(
        e.FileChangeItem(
            "i3", "edit", "a.py", DONE, (CHANGE,), "exact", "ok", 2
        )
    ),
    "tool started": e.ItemStarted(e.ToolCallItem("i4", "grep", {"pattern": "x"})),
    "tool": e.ItemCompleted(e.ToolCallItem("i4", "grep", {"pattern": "x"}, FAILED, "Error: no", False, 1)),
    "approval.requested": e.ApprovalRequested(
        "i3", "edit", {"path": "a.py"}, None, "mode", "edits are asked about", (CHANGE,)
    ),
    "item.delta": e.ItemDelta("i1", "th"),
    "permission.denied": DENIED,
    "retry": e.Retry(2, 5, "server_503", 1500),
    "retry from the start": e.Retry(
        2, 5, "stream_broken", 1500, facts.Discarded("thinking", "Let me", 'read({"path": "a')
    ),
    "context.updated": e.ContextUpdated(
        facts.KvUse(9, 100, 4, 5, bytes={"window": 7}, restored=3), facts.Breakdown(1, 2, 0, 6, 0)
    ),
    "prefix.break": e.PrefixBreak("effort changed", 512),
    "rewound": e.Rewound(1),
    "compacted": e.Compacted("all is well", 900, 90),
    "notice": e.Notice("repair", "closed a tag"),
    "turn.completed": e.TurnCompleted(1, USAGE, 9000.0, None),
    "turn.completed with its price": e.TurnCompleted(1, facts.Usage(10, 4, 5, 2, 0.0125, "USD")),
    "result": e.RunResult(
        subtype=e.Subtype.SUCCESS, is_error=False, exit_code=0, result="done", session_id="s", num_turns=1,
        duration_ms=5, usage=USAGE, permission_denials=(DENIED,), files_changed=("a.py",),
        git=facts.GitOutcome("abc", "abc", (), {"files": 1, "insertions": 3, "deletions": 1}),
    ),
    "result with an error": e.RunResult(
        subtype=e.Subtype.ABORTED, is_error=True, exit_code=130, result="", session_id="s", num_turns=0,
        duration_ms=5, error="interrupted",
    ),
}  # fmt: skip


def golden() -> dict[str, dict[str, Any]]:
    records = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]
    return {record["name"]: record["event"] for record in records}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_event_is_as_published(name: str) -> None:
    shown = json.loads(json_line(to_json(EXAMPLES[name])))
    assert shown == golden()[name]
    SCHEMA.validate(shown)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_event_can_be_read_back(name: str) -> None:
    assert from_json(golden()[name]) == EXAMPLES[name]


def test_what_is_unknown_is_none_and_what_is_garbled_is_an_error() -> None:
    assert from_json({"type": "from.the.future"}) is None
    assert from_json({"type": "item.completed", "item": {"type": "from.the.future", "id": "i1"}}) is None
    with pytest.raises(ValueError):
        from_json({"type": "turn.started", "turn": "one"})
    with pytest.raises(ValueError):
        from_json({"type": "item.completed"})


def test_there_is_an_example_of_every_type() -> None:
    types = {event.type for event in EXAMPLES.values()}
    listed = {reference["$ref"].rpartition("/")[2] for reference in SCHEMA.schema["oneOf"]}
    assert types == listed == {kind.type for kind in e.Event.__args__}
    assert set(golden()) == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_missing_field_is_caught(name: str) -> None:
    shown = golden()[name]
    for key in shown:
        with pytest.raises(jsonschema.ValidationError):
            SCHEMA.validate({other: value for other, value in shown.items() if other != key})


def test_consumers_must_take_more_fields() -> None:
    SCHEMA.validate(golden()["turn.started"] | {"new": 1})
