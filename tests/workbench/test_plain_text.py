from __future__ import annotations

import json
import unicodedata

import pytest

from dsv4_agent.headless.standard_output import json_line
from dsv4_agent.workbench.plain_text import json_escaped, plain, plain_line, without_surrogates

EVERY_CONTROL = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) == "Cc"]
BIDI = [chr(code) for code in (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))]


@pytest.mark.parametrize(
    "character", [*EVERY_CONTROL, *BIDI, "\u2028", "\u2029", "\ufeff", "\U000e0041", "\ud800"]
)
def test_nothing_that_steers_a_terminal_survives(character: str) -> None:
    shown = plain_line(f"a{character}b")
    assert character not in shown
    assert shown.startswith("a\\") and shown.endswith("b")


def test_plain_keeps_lines_tabs_and_ordinary_text() -> None:
    text = "def f():\n\treturn 'שלום 👩‍👩‍👧 e\u0301'\n"
    assert plain(text) == text
    assert plain("a\r\nb\rc") == "a\nb\\x0dc"


def test_an_escape_sequence_is_shown_not_sent() -> None:
    assert plain("\x1b]52;c;aGk=\x07") == "\\x1b]52;c;aGk=\\x07"
    assert plain("\u202egpj.exe") == "\\u202egpj.exe"


def test_plain_line_cuts_by_characters() -> None:
    assert plain_line("abcdef", 4) == "abc…"
    assert plain_line("a\nb") == "a\\x0ab"


def test_json_stays_equal_data_and_is_harmless_raw() -> None:
    value = {"text": "\x1b[2J\x9b1m\u202e \U000e0041 ok é"}
    line = json_line(value)
    assert json.loads(line) == value
    assert all(character not in line for character in "\x1b\x9b\u202e\U000e0041")
    assert "é" in line and line.count("\n") == 1


def test_lone_surrogates_become_the_replacement_character() -> None:
    assert without_surrogates("a\udcffb") == "a\ufffdb"
    assert json.loads(json_line({"a": "\udcff"})) == {"a": "\ufffd"}
    json_line({"a": "\ud83d"}).encode()
    assert json_escaped('"é"') == '"é"'
