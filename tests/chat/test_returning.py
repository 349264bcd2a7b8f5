"""Undo, going back, taking up sessions again, compaction."""

from __future__ import annotations

from pathlib import Path

from dsv4_agent.chat.events import Opened
from dsv4_agent.loop.events import (
    Compacted,
    Notice,
    PrefixBreak,
    Rewound,
    RunResult,
    UserMessage,
)
from dsv4_agent.permissions.decision import PermissionMode
from dsv4_agent.session.store import list_sessions
from tests.chat.talking import EDIT, chat_with


async def test_undo_takes_back_a_run_and_tells_the_model(workspace: Path) -> None:
    script = f"{EDIT}---\ntext: Done.\n---\ntext: I know."
    async with chat_with(script, workspace, permission_mode=PermissionMode.ACCEPT_EDITS) as chat:
        await chat.say("go")
        await chat.settle()
        assert (workspace / "app.py").read_text() == "new = 1\n"
        chat.dialogue.undo()
        notice = await chat.until_a(Notice)
        assert notice.text == "put back: app.py"
        assert (workspace / "app.py").read_text() == "old = 1\n"
        chat.dialogue.undo()
        assert (await chat.until_a(Notice)).text == "there is nothing to undo"
        await chat.say("and now?")
        assert chat.dialogue.conversation is not None and chat.dialogue.conversation.agent is not None
        told = str(chat.dialogue.conversation.agent.session.transcript.messages())
        assert "The user has undone your last changes to: app.py" in told


async def test_rewinding_and_saying_it_otherwise(workspace: Path) -> None:
    async with chat_with("text: One.\n---\ntext: Two.\n---\ntext: Other.", workspace) as chat:
        await chat.say("first")
        await chat.say("second")
        await chat.settle()
        assert chat.dialogue.rewind(1) == "second"
        assert (await chat.until_a(Rewound)).kept == 1
        assert chat.dialogue.status.kv is None  # the figures were those of what is no more
        await chat.say("another second")
        assert chat.dialogue.conversation is not None
        assert [mark.text for mark in chat.dialogue.conversation.prompts] == ["first", "another second"]
        assert chat.dialogue.rewind(7) is None


async def test_a_session_is_taken_up_again_with_everything_that_was_shown(workspace: Path) -> None:
    async with chat_with("text: One.", workspace) as chat:
        await chat.say("first")
        shown = chat.seen
    (info,) = list_sessions()
    assert (info.title, info.cwd, info.prompts) == ("first", str(workspace), 1)
    async with chat_with("text: Two.", workspace, resume="last") as chat:
        opened = await chat.until_a(Opened)
        assert [e for e in opened.events if isinstance(e, UserMessage | RunResult)] == [
            e for e in shown if isinstance(e, UserMessage | RunResult)
        ]
        assert (await chat.say("second")).result == "Two."
    assert list_sessions()[0].prompts == 2


async def test_compaction_shows_its_price_first_and_the_next_prompt_brings_the_summary(
    workspace: Path,
) -> None:
    script = "text: One.\n---\ntext: The summary.\n---\ntext: Two.\n---\ntext: Another two."
    async with chat_with(script, workspace) as chat:
        await chat.say("first")
        chat.dialogue.compact("keep names")
        await chat.until_a(RunResult)
        kinds = [type(event) for event in chat.seen]
        assert kinds.index(PrefixBreak) < kinds.index(Compacted)
        compacted = chat.of(Compacted)[0]
        assert compacted.summary == "The summary."
        assert compacted.tokens_after < compacted.tokens_before
        await chat.say("second")
        assert chat.dialogue.conversation is not None and chat.dialogue.conversation.agent is not None
        first, *_ = chat.dialogue.conversation.agent.session.transcript.messages()[1:]
        assert "<summary>\nThe summary.\n</summary>" in str(first["content"])
        assert len(chat.dialogue.conversation.prompts) == 1
        await chat.settle()
        assert list_sessions()[0].prompts == 2
        # Gone back to before the prompt that brought it, the next one brings it.
        assert chat.dialogue.rewind(0) == "second"
        assert (await chat.say("another second")).result == "Another two."
        first, *_ = chat.dialogue.conversation.agent.session.transcript.messages()[1:]
        assert "<summary>\nThe summary.\n</summary>" in str(first["content"])


async def test_a_session_that_ends_with_a_compaction_is_found_again(workspace: Path) -> None:
    async with chat_with("text: One.\n---\ntext: The summary.", workspace) as chat:
        await chat.say("first")
        chat.dialogue.compact()
        await chat.until_a(Compacted)
        await chat.settle()
    assert [info.prompts for info in list_sessions()] == [1]
    async with chat_with("text: Two.", workspace, resume="last") as chat:
        await chat.until_a(Opened)
        await chat.say("second")
        assert chat.dialogue.conversation is not None and chat.dialogue.conversation.agent is not None
        first, *_ = chat.dialogue.conversation.agent.session.transcript.messages()[1:]
        assert "<summary>\nThe summary.\n</summary>" in str(first["content"])


async def test_a_failed_compaction_leaves_everything_as_it_was(workspace: Path) -> None:
    async with chat_with("text: One.\n---\nerror: out of order\n---\ntext: Two.", workspace) as chat:
        await chat.say("first")
        chat.dialogue.compact()
        assert (await chat.until_a(RunResult)).error == "out of order"
        assert chat.dialogue.conversation is not None
        assert [mark.text for mark in chat.dialogue.conversation.prompts] == ["first"]
        assert (await chat.say("second")).result == "Two."


async def test_who_can_not_take_up_a_session_is_told_that_a_new_one_begins(workspace: Path) -> None:
    async with chat_with("text: Hello.", workspace) as chat:
        await chat.say("hi")
        held = chat.dialogue.status.session
        async with chat_with("text: Hello.", workspace, resume="last") as other:
            await other.settle()
            told = [notice.text for notice in other.of(Notice)]
            while len(told) < 2:
                told.append((await other.until_a(Notice)).text)
            assert "in use" in told[-2]
            assert told[-1] == "the next prompt begins a new session"
            await other.say("hi")
            assert other.dialogue.status.session not in (None, held)


async def test_a_folder_without_an_earlier_session_is_named(workspace: Path) -> None:
    async with chat_with("text: Hello.", workspace, resume="last") as chat:
        told = [notice.text for notice in chat.of(Notice)]
        while not told:
            told.append((await chat.until_a(Notice)).text)
        assert told[0] == f"there is no earlier session of {workspace}: /sessions lists those of all folders"
