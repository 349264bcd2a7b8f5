"""edit: the ladder, the messages, and above all that nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dsv4_tools import matching
from dsv4_tools.matching import Match
from dsv4_tools.text import decode
from tests.tools.conftest import Call


def once(text: str, old: str, new: str) -> tuple[str, Match]:
    found = matching.find(text, old, new, replace_all=False)
    return matching.apply(text, found.splices), found.match


async def test_texts(call: Call, root: Path) -> None:
    (root / "a.py").write_text("x = 1\ny = 1\nz = 2\n")
    one = await call("edit", path="a.py", old_string="z = 2", new_string="z = 3")
    assert (one.text, one.match) == ("Edited a.py: 1 replacement.", "exact")
    many = await call("edit", path="a.py", old_string="= 1", new_string="= 4", replace_all=True)
    assert many.text == "Edited a.py: 2 replacements."
    assert (root / "a.py").read_text() == "x = 4\ny = 4\nz = 3\n"
    assert [(c.added, c.removed) for c in many.changes] == [(2, 2)]


async def test_errors(call: Call, root: Path) -> None:
    (root / "a.py").write_text("def area(w, h):\n    return w * h\n")
    (root / "b").write_bytes(b"\0")
    (root / "d").mkdir()
    cases = {
        ("d", "w", "x"): "d is a directory.",
        ("d/", "w", "x"): "d is a directory.",
        ("a.py", "", "x"): "old_string is empty; use write to create or replace a file.",
        ("a.py", "x", "x"): "old_string and new_string are the same.",
        ("a.py", "w", "x"): "old_string occurs 2 times in a.py; add context or set replace_all.",
        ("no", "w", "x"): "no does not exist.",
        ("b", "w", "x"): "b is a binary file.",
        ("a.py", "nothing like it at all", "x"): "old_string not found in a.py.",
        (
            "a.py",
            "    return w * hh",
            "x",
        ): "old_string not found in a.py.\nNearest lines:\n2\t    return w * h",
        ("../a", "w", "x"): "../a is outside the workspace.",
    }
    for (path, old, new), message in cases.items():
        result = await call("edit", path=path, old_string=old, new_string=new)
        assert result.text == f"Error: {message}"
    assert (root / "a.py").read_text() == "def area(w, h):\n    return w * h\n"


def test_overlapping_places_are_ambiguous() -> None:
    with pytest.raises(matching.Ambiguous):
        once("aaa", "aa", "b")
    found = matching.find("aaa", "aa", "b", replace_all=True)
    assert matching.apply("aaa", found.splices) == "ba"


@pytest.mark.parametrize(
    ("text", "old", "new", "result", "match"),
    [
        ("a  \nb\n", "a\nb", "a\nc", "a  \nc\n", Match.WHITESPACE),
        ("a\r\nb\r\nc\r\n", "a\nb\n", "a\nx\ny\n", "a\r\nx\r\ny\r\nc\r\n", Match.WHITESPACE),
        ("a\r\nb\r\n", "a", "x\ny", "x\r\ny\r\nb\r\n", Match.EXACT),
        ("a\nb\nc\n", "a\r\nb\r\n", "a\r\nx\r\n", "a\nx\nc\n", Match.WHITESPACE),
        ("foo\nlast", "last\n", "new\n", "foo\nnew", Match.WHITESPACE),
        ("x = foo\n", "x = foo ", "x = bar", "x = bar\n", Match.WHITESPACE),
        ("say(\u201chi\u201d)\n", 'say("hi")', 'say("ho")', 'say("ho")\n', Match.UNICODE),
        ("a \u2014 b\nc\n", "a - b\nc", "a - b\nd", "a \u2014 b\nd\n", Match.UNICODE),
        (
            "class A:\n    def f(self):\n        return 1\n",
            "def f(self):\n    return 1",
            "def f(self):\n    x = 1\n    return x",
            "class A:\n    def f(self):\n        x = 1\n        return x\n",
            Match.INDENT,
        ),
        (
            "if a:\n  b()\n",
            "    if a:\n      b()\n",
            "    if a:\n      c()\n",
            "if a:\n  c()\n",
            Match.INDENT,
        ),
        ("f:\n\tif a:\n\t\tb\n", "if a:\n    b\n", "if a:\n    c\n", "f:\n\tif a:\n\t\tc\n", Match.INDENT),
        ("  a\n  b\nc\n", "    a\n    b\n", "", "c\n", Match.INDENT),
        ("  a\r\n  b\r\n", " a\n b\n", " a\n x\n", "  a\r\n  x\r\n", Match.INDENT),
    ],
)
def test_ladder(text: str, old: str, new: str, result: str, match: Match) -> None:
    assert once(text, old, new) == (result, match)


@pytest.mark.parametrize(
    ("text", "old"),
    [
        ("x = foobar\n", "x = foo "),  # the blank may only be missing at a line's end
        ("a b\n", "ab"),
        ("a\n\nb\n", "a\nb"),
        ("  a\n    b\n", "a\nb"),  # no constant shift
        ("return x\n", "return y"),
        ("   \n", "\t"),
    ],
)
def test_nothing_is_guessed(text: str, old: str) -> None:
    with pytest.raises(matching.NotFound):
        once(text, old, "new")


def test_relaxed_matches_must_be_unique() -> None:
    with pytest.raises(matching.Ambiguous):
        once("    a\n    b\nx\n        a\n        b\n", "a\nb\n", "a\nc\n")
    with pytest.raises(matching.Ambiguous):
        once("a \nb\na  \nb\n", "a\nb", "c")


async def test_relaxed_match_is_reported(call: Call, root: Path) -> None:
    (root / "a").write_text("f:\n    a \n    b\n")
    result = await call("edit", path="a", old_string="    a\n    b\n", new_string="    a\n    c\n")
    assert result.text.split("\n") == [
        "Edited a: 1 replacement.",
        "Matched after ignoring trailing whitespace and line endings.",
    ]
    assert (root / "a").read_text() == "f:\n    a \n    c\n"


@pytest.mark.parametrize(
    ("data", "old", "new", "result"),
    [
        (b"\xef\xbb\xbfa\r\nb", "b", "c", b"\xef\xbb\xbfa\r\nc"),
        (b"caf\xe9 = 1\n", "caf\u00e9 = 1", "th\u00e9 = 2", b"th\xe9 = 2\n"),
        ("é = 1\n".encode() + b"\xff\n", "= 1", "= ü", "é = ü\n".encode() + b"\xff\n"),
        (b"a\x0cb\x85\xe2\x80\xa8\nx", "x", "y", b"a\x0cb\x85\xe2\x80\xa8\ny"),
        (b"one\ntwo\r\nthree\n", "three", "3\n4", b"one\ntwo\r\n3\n4\n"),
    ],
)
async def test_encodings_survive(
    call: Call, root: Path, data: bytes, old: str, new: str, result: bytes
) -> None:
    (root / "f").write_bytes(data)
    assert (await call("edit", path="f", old_string=old, new_string=new)).match == "exact"
    assert (root / "f").read_bytes() == result


async def test_a_character_the_encoding_lacks(call: Call, root: Path) -> None:
    (root / "f").write_bytes(b"caf\xe9\n")
    result = await call("edit", path="f", old_string="caf", new_string="\u20ac")
    assert result.text == "Error: character U+20AC cannot be written as latin-1."
    assert (root / "f").read_bytes() == b"caf\xe9\n"


@given(st.binary(max_size=200))
def test_every_file_survives_decoding(data: bytes) -> None:
    decoded = decode(data)
    assert decoded.encode(decoded.text) == data


_LINES = st.text(alphabet="ab \t'\"\u201c\u2019-\u2014\r\x0c\u2028é", max_size=8)
_FILES = st.lists(_LINES, min_size=1, max_size=8).map("\n".join)


@settings(max_examples=200, deadline=None)
@given(_FILES, st.data())
def test_bytes_outside_an_exact_edit_are_identical(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    old = text[start:end]
    new = data.draw(_FILES)
    assume(old and text.count(old) == 1 and old != new)
    try:
        changed, match = once(text, old, new)
    except matching.Ambiguous:
        return
    assert match is Match.EXACT
    if text[max(start - 1, 0) :].startswith("\r\n") and old.startswith("\n"):
        start -= 1  # the newline is a whole line ending there
    assert changed.startswith(text[:start])
    assert changed.endswith(text[end:])
    middle = changed[start : len(changed) - (len(text) - end)]
    assert middle.replace("\r\n", "\n") == new.replace("\r\n", "\n")


_PLAIN_LINES = st.lists(st.sampled_from(["a", "  a", "b", "", "\tc", "d "]), min_size=2, max_size=6)


@settings(max_examples=300, deadline=None)
@given(_PLAIN_LINES, st.data())
def test_an_edit_does_the_same_whatever_ends_the_lines(lines: list[str], data: st.DataObject) -> None:
    text = "\n".join(lines)
    start = data.draw(st.integers(0, len(text) - 1))
    old = text[start : data.draw(st.integers(start + 1, len(text)))]
    new = data.draw(st.sampled_from(["", "x", "\n", "x\n" + old, "\n" + old, old + "\nx", old[1:], old[:-1]]))
    assume(old != new and "\n" in text)
    try:
        expected, _ = once(text, old, new)
    except matching.Ambiguous:
        return
    changed, _ = once(text.replace("\n", "\r\n"), old, new)
    assert changed == expected.replace("\n", "\r\n")


def test_no_last_line_is_taken_for_one_that_more_follows() -> None:
    with pytest.raises(matching.NotFound):
        once("a\n  b\nc a", "a\n\t", "")


@settings(max_examples=300, deadline=None)
@given(_FILES, _FILES, _FILES)
def test_whatever_rung_finds_it_only_the_span_changes(text: str, old: str, new: str) -> None:
    assume(old)
    try:
        found = matching.find(text, old, new, replace_all=False)
    except (matching.NotFound, matching.Ambiguous):
        return
    (splice,) = found.splices
    assert 0 <= splice.start <= splice.end <= len(text)
    found_again = text[splice.start : splice.end]
    fold = str.maketrans("\u201c\u2019\u2014", "\"'-")
    assert "".join(found_again.translate(fold).split()) == "".join(old.translate(fold).split())


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text(alphabet="abc ", min_size=1, max_size=6).filter(str.strip), min_size=2, max_size=8),
    st.data(),
)
def test_untouched_lines_of_a_relaxed_block_keep_their_bytes(lines: list[str], data: st.DataObject) -> None:
    """The file has odd line ends, the model's block has none; only the one changed line may differ."""
    ends = [data.draw(st.sampled_from(["\n", " \n", "\t\r\n", "\r\n"])) for _ in lines]
    text = "".join(line.rstrip() + end for line, end in zip(lines, ends, strict=True))
    plain = [line.rstrip() for line in lines]
    at = data.draw(st.integers(0, len(lines) - 1))
    changed = [*plain[:at], "CHANGED", *plain[at + 1 :]]
    result, _ = once(text, "\n".join(plain) + "\n", "\n".join(changed) + "\n")
    before, after = text.split("\n"), result.split("\n")
    assert [line for i, line in enumerate(after) if i != at] == [
        line for i, line in enumerate(before) if i != at
    ]
    assert after[at].rstrip("\r") == "CHANGED"
