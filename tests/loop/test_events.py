"""The JSON form of the events."""

from __future__ import annotations

import json

import pytest

from dsv4_agent.loop.event_json import to_json
from dsv4_agent.loop.events import (
    EXIT_CODES,
    AgentMessageItem,
    CommandExecutionItem,
    FileChangeInfo,
    FileChangeItem,
    Item,
    ItemCompleted,
    ItemStarted,
    ItemStatus,
    ReasoningItem,
    RunResult,
    Subtype,
    ToolCallItem,
)
from dsv4_agent.loop.facts import Usage


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (ReasoningItem("i1"), {"id": "i1", "type": "reasoning"}),
        (AgentMessageItem("i1", "x"), {"id": "i1", "type": "agent_message"}),
        (
            CommandExecutionItem("i2", "ls", sandboxed=True),
            {"id": "i2", "type": "command_execution", "command": "ls", "cwd": ".", "sandboxed": True},
        ),
        (FileChangeItem("i3", "edit", "a"), {"id": "i3", "type": "file_change", "tool": "edit", "path": "a"}),
        (
            ToolCallItem("i4", "read", {"path": "a"}),
            {"id": "i4", "type": "tool_call", "tool": "read", "input": {"path": "a"}},
        ),
    ],
)
def test_a_started_item_shows_what_is_known(item: Item, expected: dict[str, object]) -> None:
    assert to_json(ItemStarted(item)) == {"type": "item.started", "item": expected}


def test_a_completed_item_is_whole_and_plain() -> None:
    change = FileChangeInfo("a.py", "update", 3, 1, "@@ -1 +1 @@")
    item = FileChangeItem("i3", "edit", "a.py", ItemStatus.COMPLETED, (change,), "exact", "Edited", 5)
    value = to_json(ItemCompleted(item))
    assert json.loads(json.dumps(value)) == value
    shown = {"path": "a.py", "kind": "update", "added": 3, "removed": 1, "diff": "@@ -1 +1 @@"}
    assert value["item"]["changes"] == [shown]  # type: ignore[index]
    assert value["item"]["status"] == "completed"  # type: ignore[index]


def test_the_result_has_the_contract_s_fields() -> None:
    value = to_json(
        RunResult(
            subtype=Subtype.SUCCESS,
            is_error=False,
            exit_code=0,
            result="x",
            session_id="s",
            num_turns=1,
            duration_ms=2,
            usage=Usage(1, 2, 3, 4),
        )
    )
    contract = (
        "type subtype is_error exit_code result structured_output session_id num_turns duration_ms usage"
    )
    contract += " permission_denials files_changed git checkpoint"
    assert set(contract.split()) <= set(value)
    assert value["usage"] == {
        "input_tokens": 1,
        "cached_input_tokens": 2,
        "output_tokens": 3,
        "reasoning_tokens": 4,
        "cost": None,
        "currency": None,
    }


def test_every_ending_has_an_exit_code() -> None:
    assert set(EXIT_CODES) == set(Subtype)
    assert [EXIT_CODES[kind] for kind in (Subtype.SUCCESS, Subtype.ABORTED)] == [0, 130]
    assert all(code != 0 for kind, code in EXIT_CODES.items() if kind is not Subtype.SUCCESS)
