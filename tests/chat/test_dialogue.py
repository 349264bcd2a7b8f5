"""The chat as an actor: intents in, events out."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import pytest

from dsv4_agent.chat.dialogue import Choice, Dialogue
from dsv4_agent.chat.events import PlanReady, ShellRan
from dsv4_agent.chat.options import ChatOptions
from dsv4_agent.chat.status import Phase
from dsv4_agent.loop.events import (
    ApprovalRequested,
    FileChangeItem,
    ItemCompleted,
    ItemStatus,
    Notice,
    PermissionDenied,
    PrefixBreak,
    RunResult,
    Subtype,
    UserMessage,
)
from dsv4_agent.permissions.decision import PermissionMode
from dsv4_agent.workbench.model_options import Effort, ModelOptions
from tests.chat.talking import COMMAND, EDIT, Chat, chat_with


async def test_a_prompt_and_its_answer(workspace: Path) -> None:
    async with chat_with("text: Hello.", workspace) as chat:
        result = await chat.say("hi")
        assert result.subtype is Subtype.SUCCESS
        assert result.result == "Hello."
        assert [event.text for event in chat.of(UserMessage)] == ["hi"]
        assert chat.dialogue.pending == []
        assert chat.dialogue.status.kv is not None
        assert chat.dialogue.status.branch == "main"


@pytest.mark.parametrize("choice", [Choice.ONCE, Choice.SESSION, Choice.ALWAYS])
async def test_a_yes_lets_the_call_run_and_may_last(workspace: Path, choice: Choice) -> None:
    async with chat_with(f"{EDIT}---\n{COMMAND}---\n{COMMAND}---\ntext: Done.", workspace) as chat:
        await chat.dialogue.submit("go")
        question = await chat.until_a(ApprovalRequested)
        assert question.changes[0].diff == "@@ -1 +1 @@\n-old = 1\n+new = 1"
        assert (workspace / "app.py").read_text() == "old = 1\n"
        chat.dialogue.answer(question.id, Choice.ONCE)
        question = await chat.until_a(ApprovalRequested)
        assert question.input == {"command": "echo hello"}
        assert chat.dialogue.status.phase is Phase.ASKING
        chat.dialogue.answer(question.id, choice)
        if choice is Choice.ONCE:
            again = await chat.until_a(ApprovalRequested)
            chat.dialogue.answer(again.id, Choice.ONCE)
        result = await chat.until_a(RunResult)
        assert result.permission_denials == ()
        assert (workspace / "app.py").read_text() == "new = 1\n"
        assert len(chat.of(ApprovalRequested)) == (3 if choice is Choice.ONCE else 2)
    async with chat_with(f"{COMMAND}---\ntext: Done.", workspace) as chat:
        await chat.dialogue.submit("again")
        await chat.until(lambda event: isinstance(event, ApprovalRequested | RunResult))
        assert bool(chat.of(ApprovalRequested)) is (choice is not Choice.ALWAYS)


async def test_a_no_is_told_to_the_model_with_its_reason(workspace: Path) -> None:
    async with chat_with(f"{EDIT}---\ntext: I see.", workspace) as chat:
        await chat.dialogue.submit("go")
        question = await chat.until_a(ApprovalRequested)
        chat.dialogue.answer(question.id, Choice.NO, "use another name")
        await chat.until_a(RunResult)
        assert chat.of(PermissionDenied)[0].reason == "the user refused it: use another name"
        item = next(e.item for e in chat.of(ItemCompleted) if isinstance(e.item, FileChangeItem))
        assert item.status is ItemStatus.DECLINED
        assert "use another name" in item.output
        assert (workspace / "app.py").read_text() == "old = 1\n"


async def test_a_command_with_a_star_is_never_remembered(workspace: Path) -> None:
    script = "call: shell\n  command: echo *\n---\ncall: shell\n  command: echo *\n---\ntext: Done."
    async with chat_with(script, workspace) as chat:
        await chat.dialogue.submit("go")
        for _ in range(2):
            question = await chat.until_a(ApprovalRequested)
            chat.dialogue.answer(question.id, Choice.ALWAYS)
        await chat.until_a(RunResult)


async def test_an_interrupt_while_a_question_is_open(workspace: Path) -> None:
    async with chat_with(f"{EDIT}---\ntext: Going on.", workspace) as chat:
        await chat.dialogue.submit("go")
        await chat.until_a(ApprovalRequested)
        assert chat.dialogue.interrupt()
        assert (await chat.until_a(RunResult)).subtype is Subtype.ABORTED
        assert (workspace / "app.py").read_text() == "old = 1\n"
        assert (await chat.say("go on")).result == "Going on."


async def test_what_is_said_meanwhile_is_read_with_the_next_results(workspace: Path) -> None:
    script = "call: read\n  path: app.py\ndelay: 0.3\n---\ntext: Both."
    async with chat_with(script, workspace) as chat:
        await chat.dialogue.submit("read it")
        await chat.until_a(UserMessage)
        await chat.dialogue.submit("and be brief")
        assert chat.dialogue.pending == ["and be brief"]
        result = await chat.until_a(RunResult)
        assert [event.text for event in chat.of(UserMessage)] == ["read it", "and be brief"]
        assert chat.dialogue.pending == []
        assert result.num_turns == 2


async def test_what_was_said_can_be_taken_back(workspace: Path) -> None:
    async with chat_with("delay: 0.5\ntext: One.\n---\ntext: Two.", workspace) as chat:
        await chat.dialogue.submit("one")
        await chat.until_a(UserMessage)
        await chat.dialogue.submit("two")
        await chat.dialogue.submit("three")
        assert chat.dialogue.take_back() == "three"
        await chat.until_a(RunResult)
        assert [event.text for event in chat.of(UserMessage)] == ["one", "two"]
        assert chat.dialogue.take_back() is None


async def test_what_an_interrupted_run_did_not_read_comes_next(workspace: Path) -> None:
    async with chat_with("delay: 5\ntext: Never.\n---\ntext: Second.", workspace) as chat:
        await chat.dialogue.submit("one")
        await chat.until_a(UserMessage)
        await chat.dialogue.submit("two")
        chat.dialogue.interrupt()
        assert (await chat.until_a(RunResult)).subtype is Subtype.ABORTED
        assert (await chat.until_a(RunResult)).result == "Second."


async def test_a_shell_line_is_read_with_the_next_prompt(workspace: Path) -> None:
    async with chat_with("text: Seen.", workspace) as chat:
        chat.dialogue.shell("echo from-me; exit 3")
        ran = await chat.until_a(ShellRan)
        assert ran.exit_code == 3
        assert "from-me" in ran.output
        await chat.say("what was that?")
        assert chat.dialogue.conversation is not None and chat.dialogue.conversation.agent is not None
        assert "from-me" in str(chat.dialogue.conversation.agent.session.transcript.messages()[-2])


async def test_a_shell_line_can_be_interrupted(workspace: Path) -> None:
    async with chat_with("text: Never.", workspace) as chat:
        await chat.settle()
        chat.dialogue.shell("sleep 60")
        while chat.dialogue.status.phase is not Phase.WORKING:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert chat.dialogue.interrupt()
        assert (await chat.until_a(ShellRan)).output == "[interrupted]"


async def test_mentions_bring_their_files_for_the_model_only(workspace: Path) -> None:
    async with chat_with("text: Read.", workspace) as chat:
        await chat.say("look at @app.py")
        assert chat.of(UserMessage)[0].text == "look at @app.py"
        assert chat.dialogue.conversation is not None and chat.dialogue.conversation.agent is not None
        assert "old = 1" in str(chat.dialogue.conversation.agent.session.transcript.messages()[1])


async def test_plan_mode_is_told_changes_nothing_and_asks_at_the_end(workspace: Path) -> None:
    script = f"{EDIT}---\ntext: The plan.\n---\n{EDIT}---\ntext: Done."
    async with chat_with(script, workspace, permission_mode=PermissionMode.PLAN) as chat:
        await chat.dialogue.submit("plan it")
        await chat.until_a(PlanReady)
        assert (workspace / "app.py").read_text() == "old = 1\n"
        chat.dialogue.set_mode(PermissionMode.ACCEPT_EDITS)
        await chat.say("go ahead")
        assert (workspace / "app.py").read_text() == "new = 1\n"
        assert chat.dialogue.conversation is not None and chat.dialogue.conversation.agent is not None
        told = str(chat.dialogue.conversation.agent.session.transcript.messages())
        assert "switched to plan mode" in told and "left plan mode" in told


async def test_another_effort_has_a_price_once_there_is_a_conversation(workspace: Path) -> None:
    async with chat_with("text: One.\n---\ntext: Two.", workspace) as chat:
        await chat.say("first")
        await chat.settle()
        assert chat.dialogue.conversation is not None
        assert chat.dialogue.conversation.effort_price(Effort.MAX) > 0
        chat.dialogue.set_effort(Effort.MAX)
        assert (await chat.until_a(PrefixBreak)).tokens > 0
        await chat.say("second")
        assert chat.dialogue.status.effort == "max"


async def test_a_model_that_is_not_there_is_told_and_another_can_be_chosen(workspace: Path) -> None:
    script = workspace.parent / "other.txt"
    script.write_text("text: Here.")
    dialogue = Dialogue(ChatOptions(directory=workspace, model=ModelOptions(name="nowhere")))
    task = asyncio.create_task(dialogue.run())
    chat = Chat(dialogue)
    notice = await chat.until_a(Notice)
    assert "there is no model 'nowhere'" in notice.text
    while dialogue.status.phase is not Phase.FAILED:
        await asyncio.sleep(0.01)
    dialogue.load_model(ModelOptions(name=f"scripted:{script}"))
    assert (await chat.say("hi")).result == "Here."
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_stop_while_a_prompt_is_prepared_holds(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with chat_with("text: Later.", workspace) as chat:
        await chat.settle()
        chat.dialogue.shell("echo from-me")
        await chat.until_a(ShellRan)
        assert chat.dialogue.conversation is not None
        snapshot = chat.dialogue.conversation.snapshot

        def slow() -> str | None:
            time.sleep(0.3)
            return snapshot()

        monkeypatch.setattr(chat.dialogue.conversation, "snapshot", slow)
        await chat.dialogue.submit("go")
        while not chat.dialogue.interrupt():
            await asyncio.sleep(0.01)
        notice = await chat.until_a(Notice)
        assert notice.text == "interrupted before it was read: go"
        assert chat.dialogue.pending == [] and not chat.of(UserMessage)
        # What the model was to be told with that prompt comes with the next one.
        assert (await chat.say("now")).result == "Later."
        assert chat.dialogue.conversation.agent is not None
        assert "from-me" in str(chat.dialogue.conversation.agent.session.transcript.messages()[-2])


@pytest.mark.parametrize("said_before", [False, True])
async def test_a_folder_that_is_gone_is_named(workspace: Path, said_before: bool) -> None:
    async with chat_with("text: Hello.\n---\ntext: Again.", workspace) as chat:
        await chat.settle()
        if said_before:
            await chat.say("hi")
        away = workspace.rename(workspace.parent / "away")
        await chat.dialogue.submit("go")
        notice = await chat.until_a(Notice)
        assert notice.text.startswith(f"the folder {workspace} is gone. Put it back")
        await chat.settle()
        away.rename(workspace)
        assert (await chat.say("go")).subtype is Subtype.SUCCESS


async def test_a_prompt_that_can_t_begin_is_not_pending_for_ever(workspace: Path) -> None:
    dialogue = Dialogue(ChatOptions(directory=workspace, model=ModelOptions(name="nowhere")))
    task = asyncio.create_task(dialogue.run())
    chat = Chat(dialogue)
    await dialogue.submit("hi")
    await chat.until(lambda event: isinstance(event, Notice) and "nothing is open" in event.text)
    assert dialogue.pending == [] and dialogue.status.queued == 0
    while dialogue.at_work:
        await asyncio.sleep(0.01)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
