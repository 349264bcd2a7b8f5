"""The rules of a `.gitignore`: they mean what they meant, and none takes long."""

from __future__ import annotations

import pathspec
import pytest

from dsv4_tools.ignore_rules import read_rules

PATHS = (
    "a",
    "ab",
    "abc/x",
    "xaybzc",
    "d/xaybzc/e",
    "a/b/c",
    "acb.log",
    "a/q/b/w/c.log",
    "b/a.log/",
    "*a*",
    "abab",
)


@pytest.mark.parametrize(
    "line",
    [
        "*",
        "*a*b*",
        "*a*b*c",
        "/*a*c",
        "!*a*b",
        "a**c",
        "**/*a*b*/",
        "a/**/b/**/*.l*g",
        "?a*?b*[cd]",
        "\\**a*b",
        "*b*",
    ],
)
def test_a_rule_means_what_it_says(line: str) -> None:
    theirs, ours = pathspec.GitIgnoreSpec.from_lines([line]), read_rules([line])
    assert [ours.check_file(path).include for path in PATHS] == [
        theirs.check_file(path).include for path in PATHS
    ]


def test_hostile_rules_take_no_time() -> None:
    """Each of these took a regular expression longer than anybody waits, the interpreter held meanwhile."""
    stars, folders = "*a" * 12 + "*b", "a/**/" * 12 + "b"
    rules = read_rules([stars, folders, "*" * 200 + "b", "*?" * 9 + "*b", "kept*"])
    assert rules.check_file("a" * 250).include is None
    assert rules.check_file("a/" * 100 + "c").include is None
    assert rules.check_file("kept.txt").include is True


def test_an_unreadable_rule_is_skipped_alone() -> None:
    assert read_rules(["!", "*.log"]).check_file("x.log").include is True
