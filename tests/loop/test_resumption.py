"""A run that dies at any record of its journal goes on to the same end, files and conversation alike."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dsv4_agent.backends.base import Conversation
from dsv4_agent.backends.text import TextTurnBackend
from dsv4_agent.loop.agent import Agent
from dsv4_agent.loop.assemble import make_agent
from dsv4_agent.loop.events import RunResult, Subtype
from dsv4_agent.loop.guards import Limits
from dsv4_agent.loop.preset import nano_preset
from dsv4_agent.permissions.decision import PermissionMode, Policy
from dsv4_agent.session.journal import Journal, read_journal
from dsv4_agent.session.session import Session

CALL = "<｜DSML｜tool_calls>\n{}\n</｜DSML｜tool_calls>"
INVOKE = '<｜DSML｜invoke name="{}">\n{}\n</｜DSML｜invoke>'
PARAMETER = '<｜DSML｜parameter name="{}" string="true">{}</｜DSML｜parameter>'


def call(name: str, **arguments: str) -> str:
    return INVOKE.format(name, "\n".join(PARAMETER.format(*pair) for pair in arguments.items()))


TURNS = (
    "Look.</think>Reading.\n\n" + CALL.format(call("read", path="app.py")),
    "Edit.</think>\n\n"
    + CALL.format(
        "\n".join(
            (
                call("edit", path="app.py", old_string="old_name", new_string="new_name"),
                call("shell", command="echo once >> log.txt; cat log.txt"),
                call("edit", path="app.py", old_string="return 1", new_string="return 2"),
            )
        )
    ),
    "More.</think>\n\n" + CALL.format(call("shell", command="echo twice >> log.txt; cat log.txt")),
    "Fine.</think>All done.",
)


class Model(TextTurnBackend):
    """Says the turn that comes next in the conversation, whichever process asks."""

    def next_turn(self, conversation: Conversation) -> str:
        return TURNS[sum(message["role"] == "assistant" for message in conversation.messages())]


class Killed(BaseException):
    """As a process dies: nothing is written any more."""


class Copies:
    """States of the workspace as whole copies."""

    def __init__(self, workspace: Path, folder: Path) -> None:
        self._workspace, self._folder = workspace, folder

    async def take(self) -> str:
        name = str(len(list(self._folder.iterdir())) if self._folder.exists() else 0)
        shutil.copytree(self._workspace, self._folder / name)
        return name

    async def restore(self, state: str) -> None:
        for path in self._workspace.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self._folder / state, self._workspace, dirs_exist_ok=True)


def agent_of(folder: Path, session: Session, limits: Limits | None = None) -> Agent:
    workspace = folder / "work"
    return make_agent(
        workspace,
        Model(),
        nano_preset(),
        policy=Policy(workspace, PermissionMode.AUTO),
        session=session,
        limits=limits,
        checkpoint=Copies(workspace, folder / "copies"),
    )


def fresh(folder: Path) -> Path:
    (folder / "work").mkdir(parents=True)
    (folder / "work" / "app.py").write_text("def old_name():\n    return 1\n")
    return folder


async def finish(folder: Path, *, begun: bool) -> tuple[RunResult, Session]:
    """Run to the end in a new process, as it were."""
    journal = next((folder / "sessions").glob("*/journal.jsonl"), None)
    session = Session.resume(journal) if journal else Session.create(directory=folder / "sessions")
    agent = agent_of(folder, session)
    events = agent.resume() if begun and session.prompts else agent.run("do it")
    last = [event async for event in events][-1]
    session.close()
    assert isinstance(last, RunResult)
    return last, session


def end_of(folder: Path, session: Session) -> dict[str, Any]:
    files = {path.name: path.read_text() for path in sorted((folder / "work").iterdir()) if path.is_file()}
    conversation = [[(s.text, s.structure) for s in entry.segments] for entry in session.transcript.entries]
    return {"files": files, "conversation": conversation}


def kill_at(monkeypatch: pytest.MonkeyPatch, number: int, *, torn: bool) -> None:
    real = Journal.write

    def write(self: Journal, kind: str, data: Mapping[str, object], *, sync: bool = False) -> int:
        if self._last + 1 == number:
            if torn:
                with self.path.open("ab") as file:
                    file.write(b'{"v":1,"n":')
            self.write = _dead  # type: ignore[method-assign]
            raise Killed
        return real(self, kind, data, sync=sync)

    monkeypatch.setattr(Journal, "write", write)


def _dead(*_: object, **__: object) -> int:
    raise Killed


async def test_a_run_goes_on_from_every_record_of_its_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fresh(tmp_path / "whole")
    result, session = await finish(whole, begun=False)
    assert result.subtype is Subtype.SUCCESS
    want = end_of(whole, session)
    assert want["files"]["log.txt"] == "once\ntwice\n"
    records = len(read_journal(session.journal_path).records)
    calls = 0
    for number in range(2, records + 1):
        folder = fresh(tmp_path / str(number))
        with monkeypatch.context() as patched:
            kill_at(patched, number, torn=number % 2 == 0)
            broken = Session.create(directory=folder / "sessions")
            with pytest.raises(Killed):
                async for _ in agent_of(folder, broken).run("do it"):
                    pass
            broken.close()
        kind = read_journal(broken.journal_path).records[-1].kind
        calls += kind == "tool_start"
        result, session = await finish(folder, begun=True)
        assert result.subtype is Subtype.SUCCESS, (number, kind, result)
        assert end_of(folder, session) == want, (number, kind)
    assert calls >= 3  # it did die in the middle of calls


async def test_budgets_count_what_was_spent_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fresh(tmp_path / "x")
    with monkeypatch.context() as patched:
        kill_at(patched, 20, torn=False)
        session = Session.create(directory=folder / "sessions")
        with pytest.raises(Killed):
            async for _ in agent_of(folder, session).run("do it"):
                pass
        session.close()
    session = Session.resume(session.journal_path)
    sampled = sum(entry.sampled for entry in session.transcript.entries)
    assert sampled
    agent = agent_of(folder, session, Limits(max_turns=sampled))
    last = [event async for event in agent.resume()][-1]
    assert isinstance(last, RunResult)
    assert last.subtype is Subtype.MAX_TURNS


async def test_there_must_be_something_to_go_on_with(tmp_path: Path) -> None:
    folder = fresh(tmp_path / "x")
    session = Session.create(directory=folder / "sessions")
    last = [event async for event in agent_of(folder, session).resume()][-1]
    assert isinstance(last, RunResult)
    assert last.subtype is Subtype.INPUT
