"""Stopping in the middle: nothing is left running, nothing is lost, nothing runs twice."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dsv4_agent.loop.events import ItemCompleted, RunResult, Subtype
from dsv4_agent.session.journal import read_journal
from dsv4_agent.session.session import Session, replay

SLEEP = "call: shell\n  command: echo $$ > pid; sleep 60 & echo $! > child; wait"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


async def until(condition: Any) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never happened")


def gone(folder: Path) -> bool:
    return not any(alive(int((folder / name).read_text())) for name in ("pid", "child"))


async def test_stop_ends_a_command_and_its_children(lab: Any) -> None:
    agent = lab.agent(SLEEP, mode="auto")
    events = []

    async def consume() -> None:
        async for event in agent.run("x"):
            events.append(event)

    task = asyncio.create_task(consume())
    await until(lambda: (lab.workspace / "child").exists() and (lab.workspace / "child").read_text().strip())
    agent.stop()
    await asyncio.wait_for(task, 10)
    assert isinstance(events[-1], RunResult)
    assert (events[-1].subtype, events[-1].exit_code) == (Subtype.ABORTED, 130)
    await until(lambda: gone(lab.workspace))
    assert replay(lab.session.journal_path).calls[1, 0].status == "interrupted"


async def test_cancelling_the_task_ends_a_command_and_its_children(lab: Any) -> None:
    agent = lab.agent(SLEEP, mode="auto")

    async def consume() -> None:
        async for _ in agent.run("x"):
            pass

    task = asyncio.create_task(consume())
    await until(lambda: (lab.workspace / "child").exists() and (lab.workspace / "child").read_text().strip())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 10)
    await until(lambda: gone(lab.workspace))
    assert replay(lab.session.journal_path).calls[1, 0].status == "interrupted"


async def test_what_was_sampled_before_a_stop_is_kept_and_the_session_goes_on(lab: Any) -> None:
    agent = lab.agent("think: half a thou\ndelay: 60\ntext: never\n---\ntext: Second answer.")
    events = []
    async for event in agent.run("first"):
        events.append(event)
        if event.type == "item.delta":
            agent.stop()
    assert events[-1].subtype is Subtype.ABORTED
    partial = replay(lab.session.journal_path).transcript.entries[-1]
    assert (partial.text, partial.closed) == ("half a thou", False)
    assert [event.item.text for event in events if isinstance(event, ItemCompleted)] == ["half a thou"]
    async for event in agent.run("second"):
        last = event
    assert last.result == "Second answer."
    text = "".join(segment.text for segment in lab.session.transcript.segments())
    assert "half a thou</think><｜end▁of▁sentence｜><｜User｜>second<｜Assistant｜><think>" in text


async def test_a_stop_before_anything_was_sampled_leaves_a_sound_transcript(lab: Any) -> None:
    agent = lab.agent("delay: 60\ntext: never\n---\ntext: ok")
    async for event in agent.run("first"):
        if event.type == "turn.started":
            asyncio.get_running_loop().call_later(0.05, agent.stop)
    async for _ in agent.run("second"):
        pass
    text = "".join(segment.text for segment in lab.session.transcript.segments())
    assert "first<｜Assistant｜><think></think><｜end▁of▁sentence｜><｜User｜>second" in text


async def test_closing_the_stream_early_is_clean(lab: Any) -> None:
    agent = lab.agent(SLEEP, mode="auto")
    stream = agent.run("x")
    async for event in stream:
        if event.type == "item.started":
            break
    await stream.aclose()
    assert read_journal(lab.session.journal_path).records


SCRIPT = """
import asyncio, sys
from pathlib import Path
from dsv4_agent.backends.scripted import ScriptedBackend, parse_script
from dsv4_agent.loop.assemble import make_agent
from dsv4_agent.loop.preset import nano_preset
from dsv4_agent.permissions.decision import PermissionMode, Policy
from dsv4_agent.session.session import Session

async def main(workspace, sessions):
    script = '''call: write
  path: first.txt
  content: done
call: shell
  command: touch started; sleep 60
call: write
  path: third.txt
  content: never
'''
    session = Session.create(directory=sessions, id="s")
    policy = Policy(workspace, PermissionMode.AUTO)
    agent = make_agent(
        workspace, ScriptedBackend(parse_script(script)), nano_preset(), policy=policy, session=session
    )
    async for _ in agent.run("x"):
        pass

asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
"""


async def test_kill_9_in_a_call_leaves_a_journal_from_which_the_session_goes_on(lab: Any) -> None:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(lab.workspace), str(lab.sessions)])
    try:
        deadline = time.monotonic() + 20
        while not (lab.workspace / "started").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    path = lab.sessions / "s" / "journal.jsonl"
    with path.open("ab") as file:
        file.write(b'{"v":1,"n":')
    replayed = replay(path)
    assert replayed.calls[1, 0].result == "Created first.txt (1 line)."
    assert replayed.calls[1, 1].name == "shell"
    assert replayed.calls[1, 1].result is None
    assert (1, 2) not in replayed.calls

    (lab.workspace / "first.txt").unlink()
    result = await lab.run("text: Going on.", "continue", session=Session.resume(path))
    assert result.result == "Going on."
    assert lab.results == [
        "Created first.txt (1 line).",
        "Error: interrupted; it may have taken effect in part.",
        "Error: not run: the turn ended before it.",
    ]
    assert not (lab.workspace / "first.txt").exists()
    assert not (lab.workspace / "third.txt").exists()
    assert replay(path).transcript.entries == lab.session.transcript.entries
