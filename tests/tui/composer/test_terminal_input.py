"""A pasted escape character presses no keys, and Alt+Enter is not Enter."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual import events
from textual._xterm_parser import XTermParser
from textual.drivers import linux_driver

import dsv4_agent.tui.composer.composer  # noqa: F401 - importing it puts the guard in place
from dsv4_agent.tui.composer.terminal_input import InputParser, PasteFilter

START, END = "\x1b[200~", "\x1b[201~"
EVIL = "see\x1b!rm -rf x\r\x1b]52;c;aGk=\x07\x1b[31m\x1b\x1b\r\x1b[20"


def parsed(parser: XTermParser, *pieces: str) -> list[object]:
    return [event for piece in pieces for event in parser.feed(piece)]


def test_textual_alone_makes_keys_of_such_a_paste() -> None:
    """When this fails Textual has mended it, and the guard can go."""
    assert any(isinstance(event, events.Key) for event in parsed(XTermParser(), START + EVIL + END))


def test_a_paste_stays_one_paste() -> None:
    (event,) = parsed(InputParser(), START + EVIL + END, "")
    assert isinstance(event, events.Paste) and event.text == EVIL.replace("\x1b", "\x1a")


def test_the_driver_uses_it() -> None:
    assert linux_driver.XTermParser is InputParser


@pytest.mark.parametrize("text", ["", "abc", "\x1b", "\x1b[A", "\x1b[200", "\x1bb", START + END])
def test_outside_a_paste_nothing_changes_nor_waits(text: str) -> None:
    assert PasteFilter().feed(text) == text


@pytest.mark.parametrize(
    ("sent", "key"),
    [
        ("\x1b\r", "alt+enter"),
        ("\x1b[13;3u", "alt+enter"),
        ("\x1b[13;2u", "shift+enter"),
        ("\x1b[27;2;13~", "shift+enter"),
        ("\n", "ctrl+j"),
        ("\r", "enter"),
        ("\x1b\x7f", "alt+backspace"),
        ("\x17", "ctrl+w"),
    ],
)
def test_what_terminals_send_for_a_key(sent: str, key: str) -> None:
    (event,) = parsed(InputParser(), f"{sent}")
    assert isinstance(event, events.Key) and event.key == key


@given(
    st.lists(st.sampled_from(["a", "\x1b", START, END, "[200~", "[201~", "\x1b[2", "01~"]), max_size=12),
    st.lists(st.integers(0, 60), max_size=6),
)
def test_cutting_the_input_anywhere_changes_nothing(parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts) + END
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    cut = PasteFilter()
    pieces = [text[start:end] for start, end in pairwise(edges)]
    assert "".join(map(cut.feed, pieces)) == PasteFilter().feed(text)
