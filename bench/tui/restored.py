"""A long session on disk, made with dsv4's own classes: what `--resume` has to read and paint."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from bench.tui.words import words
from dsv4_agent.dsml.segments import Segment
from dsv4_agent.loop.event_json import to_json
from dsv4_agent.loop.events import (
    AgentMessageItem,
    Event,
    FileChangeInfo,
    FileChangeItem,
    ItemCompleted,
    ItemStarted,
    ItemStatus,
    ToolCallItem,
    TurnCompleted,
    TurnStarted,
    UserMessage,
)
from dsv4_agent.loop.facts import Usage
from dsv4_agent.session.session import Session
from dsv4_agent.session.transcript import Entry, EntryKind

LAST: Final = "The last line of it all."


def make_session(repository: Path, env: Mapping[str, str], model: str, events: int, characters: int) -> int:
    """Run one real turn, then append so many events with so much text to its journal; bytes of the file."""
    command = [sys.executable, "-P", "-m", "dsv4_agent.cli.main", "run", "begin", "--model", model]
    subprocess.run(command, cwd=repository, env=dict(env), check=True, capture_output=True)
    (journal,) = Path(env["DSV4_STATE_DIR"]).glob("sessions/*/journal.jsonl")
    session = Session.resume(journal, durable=False)
    try:
        turns = events // 6
        for number in range(turns):
            _append(session, number + 2, characters // turns, last=number == turns - 1)
    finally:
        session.close()
    return journal.stat().st_size


def _append(session: Session, turn: int, characters: int, *, last: bool) -> None:
    output = _lines(turn, characters * 3 // 4)
    said = f"**Step {turn}.** {' '.join(words(characters // 24))}.\n\n- `a.py` is read\n- then changed"
    said = f"{said}\n\n{LAST}" if last else said
    if turn % 8 == 0:
        prompt = f"prompt {turn}"
        session.append_prompt(Entry(EntryKind.USER, turn, (Segment(prompt, False),)), prompt)
        session.record_event(to_json(UserMessage(prompt)))
    else:
        session.record_event(to_json(TurnStarted(turn)))
    session.append(Entry(EntryKind.SAMPLED, turn, (Segment(said, False),)))
    for event in _events(turn, said, output):
        session.record_event(to_json(event))
    session.append(Entry(EntryKind.TOOL_RESULTS, turn, (Segment(output, False),)))


def _events(turn: int, said: str, output: str) -> Iterator[Event]:
    if turn % 3:
        call: ToolCallItem | FileChangeItem = ToolCallItem(
            f"tool-{turn}", "read", {"path": "a.py"}, ItemStatus.COMPLETED, output
        )
        begun: ToolCallItem | FileChangeItem = ToolCallItem(f"tool-{turn}", "read", {"path": "a.py"})
    else:
        lines = [f"{'-+ '[number % 3]}{line}" for number, line in enumerate(output.splitlines())]
        diff = "\n".join([f"@@ -1,{len(lines)} +1,{len(lines)} @@", *lines])
        change = FileChangeInfo("a.py", "update", len(lines) // 3, len(lines) // 3, diff)
        call = FileChangeItem(
            f"tool-{turn}", "edit", "a.py", ItemStatus.COMPLETED, (change,), "exact", "done"
        )
        begun = FileChangeItem(f"tool-{turn}", "edit", "a.py")
    yield ItemStarted(begun)
    yield ItemCompleted(call)
    yield ItemStarted(AgentMessageItem(f"said-{turn}"))
    yield ItemCompleted(AgentMessageItem(f"said-{turn}", said))
    yield TurnCompleted(turn, Usage())


def _lines(turn: int, characters: int) -> str:
    lines: list[str] = []
    size = 0
    while size < characters:
        line = f"    value_{turn}_{len(lines)} = compute({len(lines)}, 'text')  # {' '.join(words(4))}"
        lines.append(line)
        size += len(line) + 1
    return "\n".join(lines)
