"""Pasted text is cleaned, folded, and never acts."""

from __future__ import annotations

import pytest

from dsv4_agent.chat.pasted import clean
from dsv4_agent.tui.composer.pastes import Pastes

LONG = "\n".join(f"line {number}" for number in range(120))


@pytest.mark.parametrize(
    ("pasted", "kept"),
    [
        ("a\x1b]52;c;aGk=\x07b", "a]52;c;aGk=b"),
        ("a\x1b[31mb", "a[31mb"),
        ("[/foo] [b]x", "[/foo] [b]x"),
        ("\u202egpj.exe\u2066", "gpj.exe"),
        ("a\0b", "ab"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("tab\there", "tab\there"),
        ("hidden\U000e0041\U000e0042", "hidden"),
        ("x\ud800y", "xy"),
    ],
)
async def test_what_steers_a_terminal_is_left_out(session, pasted: str, kept: str) -> None:
    async with session() as hands:
        await hands.paste(pasted)
        assert hands.app.draft == kept
        assert not set("\x1b\x07\0\u202e\U000e0041") & set(hands.app.screen_text)
        assert ("left out" in hands.app.screen_text) is (clean(pasted).removed > 0)


async def test_a_long_paste_becomes_a_chip_and_is_submitted_in_full(session) -> None:
    async with session() as hands:
        await hands.type("see ")
        await hands.paste(LONG)
        await hands.type(" ok")
        assert hands.app.draft == "see [paste #1: 120 lines] ok"
        assert hands.app.composer.text == f"see {LONG} ok"
        await hands.press("enter")
        assert hands.app.said == [("prompt", f"see {LONG} ok", "see [paste #1: 120 lines] ok")]


async def test_a_megabyte_is_a_chip(session) -> None:
    async with session() as hands:
        await hands.paste("x" * 1_000_000)
        assert hands.app.draft == "[paste #1: 1,000,000 characters]"
        await hands.press("enter")
        assert len(hands.app.said[0][1]) == 1_000_000
        await hands.press("up")  # too long to wrap: it comes back folded
        assert hands.app.draft.startswith("[paste #") and len(hands.app.composer.text) == 1_000_000


@pytest.mark.parametrize("keys", [["backspace"], ["left", "delete"], ["ctrl+w"], ["alt+backspace"]])
async def test_a_chip_goes_as_one(session, keys: list[str]) -> None:
    async with session() as hands:
        await hands.type("a ")
        await hands.paste(LONG)
        await hands.press(*keys)
        assert hands.app.draft == "a "
        await hands.press("ctrl+z")
        assert hands.app.composer.text == f"a {LONG}"


async def test_the_cursor_does_not_go_into_a_chip(session) -> None:
    async with session() as hands:
        await hands.type("a")
        await hands.paste(LONG)
        await hands.type("b")
        await hands.press("left", "left")
        await hands.type("c")
        await hands.press("right")
        await hands.type("d")
        assert hands.app.draft == "ac[paste #1: 120 lines]db"


async def test_two_chips_have_two_numbers(session) -> None:
    async with session() as hands:
        await hands.paste(LONG)
        await hands.paste("y" * 2_000)
        assert hands.app.draft == "[paste #1: 120 lines][paste #2: 2,000 characters]"


@pytest.mark.parametrize("pasted", ["/quit\n", "!rm -rf x\n", "/quit", "\n/quit\n", "  !ls"])
async def test_a_paste_is_never_a_command_and_never_submits(session, pasted: str) -> None:
    async with session() as hands:
        await hands.paste(pasted)
        assert hands.app.said == [] and hands.app.options == []
        await hands.press("enter")
        ((kind, text, _),) = hands.app.said
        assert kind == "prompt" and text.strip() == pasted.strip()
        await hands.press("up", "enter")  # nor is it one when it comes back from the history
        assert [said[0] for said in hands.app.said] == ["prompt", "prompt"]


async def test_undo_and_redo_do_not_make_a_command_of_a_paste(session) -> None:
    async with session() as hands:
        await hands.paste("!rm -rf x")
        await hands.press("ctrl+z", "ctrl+y", "enter")
        assert hands.app.said[0][0] == "prompt"


async def test_a_walk_through_the_history_does_not_make_a_command_of_a_paste(session) -> None:
    async with session() as hands:
        await hands.type("older")
        await hands.press("enter")
        await hands.paste("!rm -rf x")
        await hands.press("up", "down", "enter")
        assert hands.app.said[1:] == [("prompt", "!rm -rf x", "!rm -rf x")]


async def test_a_slash_that_was_typed_after_a_paste_is_a_command(session) -> None:
    async with session() as hands:
        await hands.paste("/quit")
        await hands.press("ctrl+u")
        await hands.type("/quit")
        await hands.press("escape", "enter")
        assert hands.app.said == [("command", "/quit")]


async def test_a_paste_does_not_complete(session) -> None:
    async with session() as hands:
        await hands.index()
        await hands.paste("@ma")
        assert hands.app.options == []


async def test_a_paste_goes_to_the_query_while_searching(session) -> None:
    async with session() as hands:
        await hands.type("find the needle")
        await hands.press("enter", "ctrl+r")
        await hands.paste("needle\nmore")
        assert hands.app.options == ["find the needle"] and hands.app.draft == ""


def test_chips_inside_a_pasted_text_mean_nothing() -> None:
    pastes = Pastes()
    outer = pastes.chip("[paste #1: 9 lines] is quoted")
    assert pastes.expand(f"{outer} [paste #7: 2 lines]") == (
        "[paste #1: 9 lines] is quoted [paste #7: 2 lines]"
    )


def test_short_pastes_are_not_folded() -> None:
    assert Pastes().fold("x\n" * 8) == "x\n" * 8
    assert Pastes().fold("x\n" * 9) == "[paste #1: 9 lines]"
    assert Pastes().fold("x" * 1_001) == "[paste #1: 1,001 characters]"
