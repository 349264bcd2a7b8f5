"""Enter and line breaks, commands, the shell, Esc and Ctrl+C."""

from __future__ import annotations

import pytest


async def test_enter_submits_and_empties_the_box(session) -> None:
    async with session() as hands:
        await hands.type("hello you")
        await hands.press("enter")
        assert hands.app.said == [("prompt", "hello you", "hello you")]
        assert hands.app.draft == "" and hands.app.edits > 0


@pytest.mark.parametrize("key", ["ctrl+j", "shift+enter", "alt+enter"])
async def test_line_breaks(session, key: str) -> None:
    async with session() as hands:
        await hands.type("a")
        await hands.press(key)
        await hands.type("b")
        assert hands.app.draft == "a\nb"
        await hands.press("enter")
        assert hands.app.said == [("prompt", "a\nb", "a\nb")]


async def test_a_backslash_before_enter_breaks_the_line(session) -> None:
    async with session() as hands:
        await hands.type("a\\")
        await hands.press("enter")
        await hands.type("b\\\\")
        assert hands.app.draft == "a\nb\\\\"
        await hands.press("enter")
        assert hands.app.said == [("prompt", "a\nb\\\\", "a\nb\\\\")]


async def test_a_blank_draft_is_not_submitted(session) -> None:
    async with session() as hands:
        await hands.type("  ")
        await hands.press("ctrl+j", "enter")
        assert hands.app.said == []


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("!ls -l", ("shell", "ls -l")),
        ("/help ", ("command", "/help")),
        ("/effort max", ("command", "/effort max")),
        ("/hlep me", ("command", "/hlep me")),
        ("/usr/bin/x crashes", ("prompt", "/usr/bin/x crashes", "/usr/bin/x crashes")),
        ("/tmp is full", ("prompt", "/tmp is full", "/tmp is full")),
        ("//help is odd", ("prompt", "/help is odd", "/help is odd")),
        (" /help", ("prompt", " /help", " /help")),
        ("!", ("prompt", "!", "!")),
        ("a /help", ("prompt", "a /help", "a /help")),
    ],
)
async def test_the_first_characters_decide(session, typed: str, said: object) -> None:
    async with session() as hands:
        await hands.type(typed)
        await hands.press("escape", "enter") if hands.app.options else await hands.press("enter")
        assert hands.app.said == [said]


async def test_escape_is_the_applications_when_nothing_is_open(session) -> None:
    async with session() as hands:
        await hands.type("x")
        await hands.press("escape")
        assert hands.app.said == ["escape"] and hands.app.draft == "x"


async def test_ctrl_c_clears_into_the_history_and_then_is_the_applications(session) -> None:
    async with session() as hands:
        await hands.type("half a thought")
        await hands.press("ctrl+c")
        assert hands.app.draft == "" and hands.app.said == []
        await hands.press("ctrl+c")
        assert hands.app.said == ["ctrl+c"]
        await hands.press("up")
        assert hands.app.draft == "half a thought"


async def test_ctrl_c_copies_a_selection(session) -> None:
    async with session() as hands:
        await hands.type("abc")
        await hands.press("shift+left", "shift+left", "ctrl+c")
        assert hands.app.clipboard == "bc" and hands.app.draft == "abc"


async def test_ctrl_d_is_the_applications_when_the_box_is_empty(session) -> None:
    async with session() as hands:
        await hands.type("ab")
        await hands.press("home", "ctrl+d")
        assert hands.app.draft == "b" and hands.app.said == []
        await hands.press("ctrl+d", "ctrl+d")
        assert hands.app.said == ["ctrl+d"]


@pytest.mark.parametrize(
    ("keys", "left"),
    [
        (["ctrl+u"], ""),
        (["ctrl+w"], "one two-three "),
        (["ctrl+w", "ctrl+w"], "one "),
        (["alt+backspace", "alt+backspace"], "one two-three x"),
        (["ctrl+a", "ctrl+k"], ""),
        (["alt+b", "alt+b", "ctrl+k"], "one two-three x"),
        (["ctrl+a", "alt+f", "ctrl+u"], " two-three x.y"),
        (["ctrl+a", "alt+d"], " two-three x.y"),
        (["ctrl+a", "ctrl+e", "backspace"], "one two-three x."),
    ],
)
async def test_editing_keys_of_a_shell(session, keys: list[str], left: str) -> None:
    async with session() as hands:
        await hands.type("one two-three x.y")
        await hands.press(*keys)
        assert hands.app.draft == left


async def test_ctrl_a_and_ctrl_u_mean_the_line_not_the_row_on_the_screen(session) -> None:
    async with session() as hands:
        await hands.type("first\n" + "word " * 20)
        await hands.press("ctrl+u")
        assert hands.app.draft == "first\n"


async def test_undo_brings_a_deletion_back(session) -> None:
    async with session() as hands:
        await hands.type("abc")
        await hands.press("ctrl+u", "ctrl+z")
        assert hands.app.draft == "abc"


@pytest.mark.parametrize("long", ["line\n" * 30, "word " * 180])
async def test_undo_and_redo_across_many_lines(session, long: str) -> None:
    async with session() as hands:
        await hands.type("abc")
        hands.app.composer.replace_text(long)
        await hands.pilot.pause()
        await hands.press("ctrl+z")
        assert hands.app.draft == "abc"
        await hands.press("ctrl+y")
        assert hands.app.draft == long
        await hands.press("ctrl+z")
        assert hands.app.draft == "abc"


async def test_the_box_grows_to_ten_lines(session) -> None:
    async with session() as hands:
        area = hands.app.composer._area
        heights = []
        for _ in range(14):
            heights.append(area.content_size.height)
            await hands.press("ctrl+j")
        assert heights[:3] == [1, 2, 3] and area.content_size.height == 10


async def test_busy_changes_what_the_empty_box_says(session) -> None:
    async with session() as hands:
        assert "names a file" in hands.app.screen_text
        hands.app.composer.set_busy(True)
        await hands.pilot.pause()
        assert "Enter queues, Esc interrupts" in hands.app.screen_text
        hands.app.composer.set_busy(False)
        await hands.pilot.pause()
        assert "names a file" in hands.app.screen_text


async def test_keys_can_be_changed(session) -> None:
    async with session() as hands:
        hands.app.set_keymap({"composer.submit": "ctrl+s", "composer.newline": "enter"})
        await hands.type("a")
        await hands.press("enter")
        await hands.type("b")
        await hands.press("ctrl+s")
        assert hands.app.said == [("prompt", "a\nb", "a\nb")]


async def test_text_is_never_markup(session) -> None:
    async with session() as hands:
        await hands.type("rm a[i] [/foo] [b]x")
        assert "rm a[i] [/foo] [b]x" in hands.app.screen_text
        await hands.press("enter", "ctrl+r")
        await hands.type("[/foo]")
        assert hands.app.screen_text.count("[/foo]") == 2
