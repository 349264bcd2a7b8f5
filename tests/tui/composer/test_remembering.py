"""History, search, drafts, the external editor."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsv4_agent.chat.drafts import DraftStore


async def give(hands, *prompts: str) -> None:
    for prompt in prompts:
        await hands.type(prompt)
        await hands.press("enter")
    hands.app.said.clear()


async def test_arrows_walk_through_the_history_and_back_to_the_draft(session) -> None:
    async with session() as hands:
        await give(hands, "one", "two")
        await hands.type("draft")
        seen = []
        for key in ("up", "up", "up", "down", "down", "down"):
            await hands.press(key)
            seen.append(hands.app.draft)
        assert seen == ["two", "one", "one", "two", "draft", "draft"]


async def test_whether_the_history_is_open_is_known(session) -> None:
    async with session() as hands:
        await hands.press("up")
        assert not hands.app.composer.in_history  # there is nothing to walk through
        await give(hands, "old")
        await hands.press("up")
        assert hands.app.composer.in_history
        await hands.press("down")
        assert not hands.app.composer.in_history
        await hands.press("ctrl+r")
        assert hands.app.composer.in_history
        await hands.press("escape")
        assert not hands.app.composer.in_history


async def test_arrows_move_inside_the_text_first(session) -> None:
    async with session() as hands:
        await give(hands, "old")
        await hands.type("a\nb\nc")
        await hands.press("up", "up")
        await hands.type("x")
        assert hands.app.draft == "ax\nb\nc"
        await hands.press("up")
        assert hands.app.draft == "old"
        await hands.press("down")
        assert hands.app.draft == "ax\nb\nc"


async def test_arrows_move_inside_a_wrapped_line_first(session) -> None:
    async with session() as hands:
        await give(hands, "old")
        await hands.type("word " * 20)
        await hands.press("up")
        assert hands.app.draft == "word " * 20
        await hands.press("up")
        assert hands.app.draft == "old"


async def test_several_lines_do_not_stop_the_walk(session) -> None:
    async with session() as hands:
        await give(hands, "oldest", "a\nb\nc")
        await hands.press("up", "up")
        assert hands.app.draft == "oldest"


async def test_the_history_is_there_in_the_next_session(session) -> None:
    async with session() as hands:
        await give(hands, "!ls", "remember me")
    async with session() as hands:
        await hands.press("up")
        assert hands.app.draft == "remember me"
        await hands.press("up")
        assert hands.app.draft == "!ls"


async def test_a_prompt_with_a_mention_opens_no_list_when_it_comes_back(session) -> None:
    async with session() as hands:
        await hands.index()
        await hands.type("@src/main.py")
        await hands.press("enter", "up")
        assert hands.app.draft == "@src/main.py" and hands.app.options == []


async def test_search_finds_as_one_types(session) -> None:
    async with session() as hands:
        await give(hands, "fix the parser", "write docs", "fix the lexer")
        await hands.type("my draft")
        await hands.press("ctrl+r")
        assert hands.app.options == ["fix the lexer", "write docs", "fix the parser"]
        await hands.type("fix")
        assert hands.app.options == ["fix the lexer", "fix the parser"]
        assert "history: fix" in hands.app.screen_text and hands.app.draft == "my draft"
        await hands.press("ctrl+r", "enter")
        assert hands.app.draft == "fix the parser" and hands.app.said == []
        await hands.press("enter")
        assert hands.app.said == [("prompt", "fix the parser", "fix the parser")]


async def test_escape_leaves_the_search_with_the_draft_as_it_was(session) -> None:
    async with session() as hands:
        await give(hands, "old")
        await hands.type("my draft")
        await hands.press("ctrl+r", "o", "escape")
        assert hands.app.draft == "my draft" and hands.app.said == []
        await hands.type("!")
        assert hands.app.draft == "my draft!"


async def test_the_query_can_be_mended(session) -> None:
    async with session() as hands:
        await give(hands, "old")
        await hands.press("ctrl+r", "x")
        assert hands.app.options == [] and "nothing found" in hands.app.screen_text
        await hands.press("backspace")
        assert hands.app.options == ["old"]
        await hands.press("x", "y", "ctrl+u")
        assert hands.app.options == ["old"]
        await hands.press("x", "enter")
        assert hands.app.draft == "" and hands.app.said == []


async def test_the_draft_survives(session, workspace: Path) -> None:
    async with session() as hands:
        await hands.type("unsent ")
        await hands.paste("x\n" * 30)
    async with session() as hands:
        assert hands.app.draft == "unsent [paste #1: 30 lines]"
        assert hands.app.composer.text == "unsent " + "x\n" * 30
        await hands.press("enter")
    async with session() as hands:
        assert hands.app.draft == ""


async def test_the_draft_is_on_disk_while_the_program_runs(session, workspace: Path) -> None:
    async with session() as hands:
        await hands.type("unsent")
        for _ in range(100):
            if (draft := DraftStore(workspace).load()) is not None and draft.text == "unsent":
                break
            await asyncio.sleep(0.1)
        assert draft is not None and draft.text == "unsent"


async def test_a_pasted_start_survives_as_one(session) -> None:
    async with session() as hands:
        await hands.paste("!rm -rf x")
    async with session() as hands:
        await hands.press("enter")
        assert hands.app.said == [("prompt", "!rm -rf x", "!rm -rf x")]


async def test_nothing_can_be_written_and_the_box_works(session, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    async with session() as hands:
        await give(hands, "one")
        assert "history can't be kept" in hands.app.screen_text
        await hands.press("up")
        assert hands.app.draft == "one"


async def test_the_external_editor_gets_the_whole_draft(
    session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "ed"
    script.write_text('#!/bin/sh\nprintf "\\033[1mmore" >> "$1"\n')
    script.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(script))
    async with session() as hands:

        @contextlib.contextmanager
        def suspend() -> Iterator[None]:
            yield

        monkeypatch.setattr(hands.app, "suspend", suspend)
        await hands.paste("x\n" * 10)
        await hands.press("ctrl+g")
        assert hands.app.draft == "x\n" * 10 + "[1mmore"
        assert os.environ["VISUAL"] == str(script)
        await hands.press("ctrl+z")
        assert hands.app.draft == "[paste #1: 10 lines]"


async def test_a_failing_editor_is_told_and_the_draft_stays(session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISUAL", "/nowhere/[b]editor")
    async with session() as hands:
        await hands.type("draft")
        await hands.press("ctrl+g")  # the test driver cannot suspend
        assert hands.app.draft == "draft" and "editor can't be opened" in hands.app.screen_text
        monkeypatch.setattr(hands.app, "suspend", contextlib.nullcontext)
        await hands.press("ctrl+g")
        assert hands.app.draft == "draft" and "[b]editor" in hands.app.screen_text


async def test_text_from_outside_is_cleaned(session) -> None:
    async with session() as hands:
        hands.app.composer.replace_text("a\x1b[31mb\u202e\r\nc")
        await hands.pilot.pause()
        assert hands.app.draft == "a[31mb\nc" and hands.app.composer.text == "a[31mb\nc"
