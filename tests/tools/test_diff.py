"""The diff that people read: right, bounded, quick on what is hard to match."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from dsv4_tools.diff import MAX_LINES, unified_diff

LINES = st.lists(st.sampled_from(["a", "b", "c", "", "  x", "é"]), max_size=30)


def applied(old: list[str], diff: str) -> list[str]:
    """`old` after the hunks of `diff`."""
    new: list[str] = []
    at = 0
    for row in diff.split("\n") if diff else []:
        if row.startswith("@@"):
            start = row.split()[1].removeprefix("-").split(",")
            first = int(start[0]) - (1 if len(start) == 1 or start[1] != "0" else 0)
            new += old[at:first]
            at = first
        elif row.startswith("+"):
            new.append(row[1:])
        else:
            assert old[at] == row[1:]
            if row.startswith(" "):
                new.append(row[1:])
            at += 1
    return new + old[at:]


@given(LINES, LINES)
def test_applying_the_hunks_gives_the_new_text(old: list[str], new: list[str]) -> None:
    def text(rows: list[str]) -> str:
        return "".join(row + "\n" for row in rows)

    assert applied(old, unified_diff(text(old), text(new))) == new


def test_equal_texts_have_no_diff() -> None:
    assert unified_diff("a\nb\n", "a\nb\n") == ""


def test_a_huge_change_is_cut_and_says_so() -> None:
    old = "".join(f"old {i}\n" for i in range(5_000))
    new = "".join(f"new {i}\n" for i in range(5_000))
    rows = unified_diff(old, new).split("\n")
    assert len(rows) == MAX_LINES + 1
    assert rows[-1] == f"… {10_001 - MAX_LINES} more lines"


def test_only_a_newline_ends_a_line() -> None:
    assert unified_diff("a\u2028b\n", "a\u2028c\n") == "@@ -1 +1 @@\n-a\u2028b\n+a\u2028c"
