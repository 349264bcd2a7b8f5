"""The list above the box: files, commands, arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsv4_agent.tui.composer.completion import Kind, request_at


async def test_a_file_is_completed_with_tab(session) -> None:
    async with session() as hands:
        await hands.index()
        await hands.type("see @mp")
        assert hands.app.options == ["src/main.py"]
        await hands.press("tab")
        assert hands.app.draft == "see @src/main.py " and hands.app.options == []
        await hands.press("enter")
        assert hands.app.said == [("prompt", "see @src/main.py", "see @src/main.py")]


async def test_enter_takes_and_arrows_choose(session) -> None:
    async with session() as hands:
        await hands.index()
        await hands.type("@")
        assert hands.app.options == ["src/", "a b.txt", "src/main.py"]
        await hands.press("down", "down", "up", "enter")
        assert hands.app.draft == '@"a b.txt" ' and hands.app.said == []
        await hands.type("@")
        await hands.press("up", "enter")
        assert hands.app.draft == '@"a b.txt" @src/main.py '


async def test_a_folder_goes_on(session) -> None:
    async with session() as hands:
        await hands.index()
        await hands.type("@src")
        await hands.press("tab")
        assert hands.app.draft == "@src/" and "src/main.py" in hands.app.options
        await hands.press("down", "tab")
        assert hands.app.draft == "@src/main.py "


async def test_enter_submits_a_mention_that_is_complete(session) -> None:
    async with session() as hands:
        await hands.index()
        await hands.type("@src/main.py")
        assert hands.app.options
        await hands.press("enter")
        assert hands.app.said == [("prompt", "@src/main.py", "@src/main.py")]


async def test_escape_closes_first(session) -> None:
    async with session() as hands:
        await hands.index()
        await hands.type("@m")
        await hands.press("escape")
        assert hands.app.options == [] and hands.app.said == [] and hands.app.draft == "@m"
        await hands.press("escape")
        assert hands.app.said == ["escape"]


async def test_the_list_follows_the_cursor(session) -> None:
    async with session() as hands:
        await hands.index()
        await hands.type("x @m")
        await hands.press("ctrl+a")
        assert hands.app.options == []


async def test_names_are_shown_harmless_and_can_be_taken(session, workspace: Path) -> None:
    (workspace / "evil\x1b]52;c;x\x07[b]\u202e").write_text("x")
    async with session() as hands:
        await hands.index()
        await hands.type("@evil")
        assert "\\x1b]52;c;x\\x07[b]\\u202e" in hands.app.screen_text
        assert not set("\x1b\x07\u202e") & set(hands.app.screen_text)
        await hands.press("tab")
        assert hands.app.draft == '@"evil\\x1b]52;c;x\\x07[b]\\u202e" '


async def test_new_files_appear_when_the_index_is_ready(session) -> None:
    async with session() as hands:
        await hands.type("@main")
        await hands.index()
        await hands.pilot.pause()
        assert hands.app.options == ["src/main.py"]


async def test_commands_are_completed_with_their_description(session) -> None:
    async with session() as hands:
        await hands.type("/")
        assert hands.app.options == ["/help", "/quit", "/effort"]
        assert "Show [b]all[/b] there is" in hands.app.screen_text
        await hands.type("h")
        await hands.press("tab")
        assert hands.app.draft == "/help "


async def test_enter_runs_a_command_that_is_typed_in_full(session) -> None:
    async with session() as hands:
        await hands.type("/help")
        assert hands.app.options == ["/help"]
        await hands.press("enter")
        assert hands.app.said == [("command", "/help")]


async def test_an_argument_is_completed_but_only_when_it_was_asked_for(session) -> None:
    async with session() as hands:
        await hands.type("/eff")
        await hands.press("tab")
        assert hands.app.options == ["low", "high", "max"]
        await hands.press("enter")
        assert hands.app.said == [("command", "/effort")]
        await hands.type("/effort ")
        await hands.press("down", "down", "enter", "enter")
        assert hands.app.said[1:] == [("command", "/effort high")]
        await hands.type("/effort m")
        await hands.press("tab", "enter")
        assert hands.app.said[2:] == [("command", "/effort max")]


async def test_a_click_takes_an_option(session) -> None:
    async with session() as hands:
        await hands.type("/")
        await hands.pilot.click(hands.app.composer._popup, offset=(4, 1))
        await hands.pilot.pause()
        assert hands.app.draft == "/quit "


async def test_tab_is_the_screens_when_nothing_is_listed(session) -> None:
    async with session() as hands:
        await hands.type("x")
        await hands.press("tab")
        assert hands.app.draft == "x"


@pytest.mark.parametrize(
    ("row", "before", "kind", "query"),
    [
        (0, "@", Kind.FILE, ""),
        (3, "see (@a/b", Kind.FILE, "a/b"),
        (0, 'x @"two wo', Kind.FILE, "two wo"),
        (0, "/he", Kind.COMMAND, "he"),
        (0, "/effort  m", Kind.ARGUMENT, "m"),
        (0, "/effort @a", Kind.FILE, "a"),
    ],
)
def test_what_is_completed(row: int, before: str, kind: Kind, query: str) -> None:
    request = request_at(row, before)
    assert request is not None and (request.kind, request.query) == (kind, query)


@pytest.mark.parametrize(
    ("row", "before"),
    [(0, "me@host"), (0, "a /he"), (1, "/he"), (0, "@a b"), (0, '@"a b" '), (0, "/usr/bin")],
)
def test_what_is_not_completed(row: int, before: str) -> None:
    assert request_at(row, before) is None
