"""Wrapping and the tree of heights."""

from __future__ import annotations

import random

import pytest
from rich.style import Style

from dsv4_agent.tui.transcript.heights import Heights
from dsv4_agent.tui.transcript.rows import copied
from dsv4_agent.tui.transcript.wrapping import cut, wrap, wrap_spans

NONE = Style()


@pytest.mark.parametrize(
    ("line", "rows"),
    [
        ("", [""]),
        ("one two", ["one two"]),
        ("one two three", ["one two", "three"]),
        ("abcdefghijkl", ["abcdefgh", "ijkl"]),
        ("    abcdefghij", ["    abcd", "efghij"]),
        ("one      two", ["one", "two"]),
        ("12345678        ", ["12345678"]),
        ("日本語日本語", ["日本語日", "本語"]),
        ("abcdefg👩\u200d👧x", ["abcdefg", "👩\u200d👧x"]),
    ],
)
def test_words_wrap(line: str, rows: list[str]) -> None:
    assert [row.text for row in wrap(line, NONE, 8)] == rows


def test_a_copy_of_wrapped_rows_is_the_line() -> None:
    line = "some  words and averyveryverylongword, and so on"
    assert copied(list(wrap(line, NONE, 9))) == line
    assert copied(list(wrap(line, NONE, 9, words=False))) == line
    spans = [(line[start : start + 5], Style(bold=bool(start % 2))) for start in range(0, len(line), 5)]
    assert copied(list(wrap_spans(spans, 9))) == line


def test_styles_stay_with_their_text() -> None:
    bold = Style(bold=True)
    rows = list(wrap_spans([("ab", NONE), ("cd ef", bold), ("g", NONE)], 5))
    assert [row.spans for row in rows] == [(("ab", NONE), ("cd", bold)), (("ef", bold), ("g", NONE))]


def test_cut() -> None:
    assert [cut("abcdef", width) for width in (0, 1, 3, 6)] == ["", "…", "ab…", "abcdef"]
    assert cut("日本語", 4) == "日…"


def test_heights_agree_with_sums() -> None:
    rng = random.Random(4)
    plain = [rng.choice((0, 0, 1, 2, 7)) for _ in range(50)]
    heights = Heights()
    heights.reset(plain)
    for _ in range(300):
        if rng.random() < 0.3:
            plain.append(rng.randrange(4))
            heights.append(plain[-1])
        else:
            index = rng.randrange(len(plain))
            plain[index] = rng.randrange(6)
            heights.set(index, plain[index])
        cut_at = rng.randrange(len(plain) + 1)
        assert heights.start(cut_at) == sum(plain[:cut_at])
        assert heights.total == sum(plain)
        covers = [(index, row) for index, height in enumerate(plain) for row in range(height)]
        row = rng.randrange(len(covers))
        assert heights.find(row) == covers[row]
    assert heights.find(10**6) == (len(plain) - 1, plain[-1])
    assert Heights().find(3) == (0, 0)
