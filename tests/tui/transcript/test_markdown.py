"""Finished answers as Markdown."""

from __future__ import annotations

import time

from dsv4_agent.tui.theme import DARK, palette_for
from dsv4_agent.tui.transcript.markdown.document import is_suited, markdown_rows
from dsv4_agent.tui.transcript.rows import copied

PALETTE = palette_for(DARK)


def lines(text: str, width: int = 60) -> list[str]:
    return [row.strip(width).text.rstrip() for row in markdown_rows(text, width, PALETTE)]


def test_a_document(answer: str) -> None:
    assert lines(answer, 50) == [
        "The parser rejects empty lines, see the docs",
        "(https://example.org).",
        "",
        "1. one",
        "   • deeper, with enough words to be wrapped on a",
        "     narrow screen",
        "2. two",
        "",
        "│ def read(lines):",
        '│     return [1, "two"]',
        "",
        "Case  │ Result",
        "──────┼───────────",
        "empty │ ParseError",
        "",
        "▎ Quoted.",
    ]


def test_a_copy_leaves_bars_and_wraps_out(answer: str) -> None:
    text = copied(markdown_rows(answer, 50, PALETTE))
    assert "see the docs (https://example.org).\n" in text
    assert "   • deeper, with enough words to be wrapped on a narrow screen\n2. two" in text
    assert '\n\ndef read(lines):\n    return [1, "two"]\n\n' in text
    assert text.endswith("\nQuoted.")


def test_links_are_words_and_their_address_is_shown() -> None:
    rows = markdown_rows("[bank](https://evil.example) <https://a.example>", 80, PALETTE)
    assert rows[0].text == "bank (https://evil.example) https://a.example"
    assert all(style.link is None and not style.meta for _, style in rows[0].spans)


def test_markup_of_rich_and_html_stay_text() -> None:
    assert lines("a [b]x[/b] [@click=app.quit]y[/] <i>z</i>") == ["a [b]x[/b] [@click=app.quit]y[/] <i>z</i>"]


def test_entities_cannot_smuggle_controls() -> None:
    assert lines("a&#x202e;b&#10;c &amp; d") == ["a\\u202eb\\x0ac & d"]


def test_code_keeps_its_indentation_and_a_marker_stays_before_it() -> None:
    assert lines("- ```\n  if x:\n      y\n  ```") == ["• │ if x:", "  │     y"]


def test_loose_lists_keep_their_air_and_ordered_ones_their_start() -> None:
    assert lines("3. a\n\n4. b") == ["3. a", "", "4. b"]


def test_a_narrow_table_wraps_its_wide_column() -> None:
    text = "| key | text |\n|---|---|\n| a | some words that are too long |"
    assert lines(text, 25) == [
        "key │ text",
        "────┼────────────────────",
        "a   │ some words that are",
        "    │ too long",
    ]


def test_a_table_without_room_becomes_lines() -> None:
    text = "| a | b | c | d |\n|-|-|-|-|\n| 1 | 2 | 3 | 4 |"
    assert lines(text, 20) == ["a", "b", "c", "d", "────────", "1", "2", "3", "4"]


def test_what_is_too_much_is_left_to_plain_text() -> None:
    assert is_suited("a *b* [c](d)\n" * 500)
    for text in ("x" * 50_000, "a" * 5_000, "[" * 50, "> " * 60, "\n" + "- " * 60 + "x"):
        assert not is_suited(text)


def test_suited_texts_do_not_hang() -> None:
    """The worst that passes the gate stays far below a second on any machine; the bound is generous."""
    for piece in ("[a", "*a **a ", "`a``b", "<a ", "![x](", "_a __b ", "&a;&#1"):
        text = "\n".join([piece * (3_000 // len(piece))] * 10)
        if is_suited(text):
            begun = time.process_time()
            markdown_rows(text, 80, PALETTE)
            assert time.process_time() - begun < 20
