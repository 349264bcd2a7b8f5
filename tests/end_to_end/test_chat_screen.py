"""`dsv4 chat` on a terminal: what a person sees and types."""

from __future__ import annotations

import importlib.util
import os
import re
from typing import Any

import pytest

from dsv4_agent.session.session import replay
from tests.end_to_end.pty_screen import open_chat

ASK = "Ask for something"
LOADING = "loading the model"
COLOUR = re.compile(rb"\x1b\[(?:[0-9;]*;)?(?:[34][0-8]|9[0-7]|10[0-7])(?:;[0-9;]*)?m")


def test_keys_are_taken_before_the_model_is_there_and_a_turn_is_answered(dsv4: Any) -> None:
    script = dsv4.home / "slow.txt"
    os.mkfifo(script)  # opening the model waits until somebody writes
    with open_chat(dsv4, "", "--model", f"scripted:{script}") as chat:
        chat.wait_for(ASK)
        chat.send("early bird")
        chat.wait_for("│ early bird")
        assert LOADING in chat.shown
        script.write_text("think: hm\ntext: Hello **there**.\n")
        chat.wait_for("ready ·")
        chat.send("\r")
        chat.wait_for("▌ early bird")
        chat.wait_for("Hello there.")
        chat.wait_for("ready ·")
        assert ASK in chat.shown, "the composer is empty again"


def test_the_status_line_says_when_the_model_has_loaded(dsv4: Any) -> None:
    with open_chat(dsv4, "text: Hello.\n") as chat:
        chat.wait_for("ready ·")
        assert LOADING not in chat.shown


def test_keys_that_come_at_once_act_in_their_order(dsv4: Any) -> None:
    with open_chat(dsv4, "text: Hello.\n") as chat:
        chat.wait_for(ASK)
        chat.send("ab\x7fc\x1b[D\x1b[Dx.")
        chat.until(
            lambda: any(set("abcx.") - {"b"} <= set(line) for line in chat.lines[-4:-1]), "the letters"
        )
        chat.wait_until_quiet(0.5)
        chat.wait_for("│ x.ac ", seconds=3)


def test_what_is_said_meanwhile_waits_its_turn(dsv4: Any) -> None:
    script = "text: First part.\ndelay: 2\ncall: read\n  path: a.py\n---\ntext: Second part.\n"
    with open_chat(dsv4, script) as chat:
        chat.wait_for("ready ·")
        chat.send("one\r")
        chat.wait_for("First part.")
        chat.send("two\r")
        chat.wait_for("queued: two")
        chat.wait_for("Second part.")
        chat.wait_for("ready ·")
        chat.wait_until_gone("queued: two")
        order = [chat.shown.index(text) for text in ("▌ one", "First part.", "▌ two", "Second part.")]
        assert order == sorted(order)


@pytest.mark.slow
def test_other_sizes_and_back(dsv4: Any) -> None:
    with open_chat(dsv4, "text: Before.\n---\ntext: After.\n") as chat:
        chat.wait_for("ready ·")
        chat.send("one\r")
        chat.wait_for("Before.")
        for columns, rows in ((120, 40), (40, 12), (80, 24)):
            chat.resize(columns, rows)
            chat.until(lambda at=rows: "ready" in chat.lines[at - 1], f"a status line at {columns}x{rows}")
            chat.until(lambda at=columns: any(len(line) == at for line in chat.lines), "the full width")
        chat.send("two\r")
        chat.wait_for("After.")


def test_a_long_hostile_paste_is_a_chip_and_presses_no_key(dsv4: Any) -> None:
    lines = [f"line {number} \x1b[A\x1b]52;c;aGk=\x07\x1b[13u !touch pasted" for number in range(200)]
    with open_chat(dsv4, "text: Read it.\n") as chat:
        chat.wait_for("ready ·")
        chat.paste("\r".join(lines))
        chat.wait_for("[paste #1: 200 lines]")
        assert "▌" not in chat.shown and not dsv4.journals()
        chat.send(" please\r")
        chat.wait_for("Read it.")
        chat.wait_for("ready ·")
        assert b"\x1b]52" not in chat.output
    assert not (dsv4.repository / "pasted").exists()
    (journal,) = dsv4.journals()
    (prompt,) = replay(journal).prompts
    assert prompt.text.startswith("line 0 [A") and "\nline 199 " in prompt.text
    assert prompt.text.endswith(" please") and "\x1b" not in prompt.text


def test_help_says_what_there_is(dsv4: Any) -> None:
    with open_chat(dsv4, "", "--help") as chat:
        assert chat.wait_for_end() == 0
        for option in ("--model", "--resume", "--permission-mode", "--plain"):
            assert option in chat.written()


def test_a_wrong_settings_file_is_one_line_and_52(dsv4: Any) -> None:
    folder = dsv4.home / "config"
    folder.mkdir()
    (folder / "config.toml").write_text('[tui]\ncolour = "red"\n')
    with open_chat(dsv4, "text: Hello.\n", columns=500) as chat:
        assert chat.wait_for_end() == 52
        said = chat.written().strip()
        assert said.startswith("dsv4: error: ") and "colour" in said and "\n" not in said
        assert b"\x1b" not in chat.output


def test_no_color_emits_no_colour(dsv4: Any) -> None:
    with open_chat(dsv4, "text: Hello `there`.\n", NO_COLOR="1") as chat:
        chat.wait_for("ready ·")
        assert not COLOUR.findall(bytes(chat.output))


def test_no_color_emits_no_hue(dsv4: Any) -> None:
    with open_chat(dsv4, "text: Hello `there`.\n", NO_COLOR="1") as chat:
        chat.wait_for("ready ·")
        chat.send("one\r")
        chat.wait_for("Hello there.")
        chat.wait_for("ready ·")
        assert not hues(chat.output)
    with open_chat(dsv4, "text: Hello.\n") as chat:
        chat.wait_for("ready ·")
        assert hues(chat.output), "and the pattern finds hues where there are some"


def hues(output: bytes) -> list[bytes]:
    """The colour sequences in it that are not shades of grey."""
    grey = re.compile(rb"[34]8;2;(\d+);\1;\1(?=[;m])")
    return [found for found in COLOUR.findall(bytes(output)) if COLOUR.search(grey.sub(b"0", found))]


@pytest.mark.skipif(
    importlib.util.find_spec("dsv4_agent.plain.app") is None, reason="there is no plain mode yet"
)
def test_a_dumb_terminal_gets_plain_lines(dsv4: Any) -> None:
    with open_chat(dsv4, "text: Hello.\n", TERM="dumb") as chat:
        chat.wait_for_bytes(b">")
        chat.send("one\r")
        chat.wait_for("Hello.")
        chat.send("\x04")
        assert chat.wait_for_end() == 0
        assert b"\x1b[?1049h" not in chat.output
