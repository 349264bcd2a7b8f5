"""Placeholders in prompts and, quoted, in commands."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsv4_agent.batch.template import Template, TemplateError


def filled(text: str, **values: str | tuple[str, ...]) -> str:
    return Template.parse(text).text(values)


def test_names_are_replaced_and_other_braces_stay() -> None:
    text = 'Rename {old} to {new} in {"a": {1: 2}} and f"{x!r}" and {{old}} and {} and { old }'
    want = 'Rename f to g in {"a": {1: 2}} and f"{x!r}" and {old} and {} and { old }'
    assert filled(text, old="f", new="g") == want


def test_a_name_without_value_is_named_with_those_there_are() -> None:
    with pytest.raises(TemplateError, match=r"no \{pth\}, only \{path\}; write \{\{pth\}\}"):
        filled("{pth}", path="a")


def test_values_are_not_read_again() -> None:
    assert filled("{a}", a="{b}", b="x") == "{b}"


def test_lists() -> None:
    template = Template.parse("pytest {tests}")
    assert template.command({"tests": ("a b.py", "c.py")}) == "pytest 'a b.py' c.py"
    assert template.command({"tests": ()}) == "pytest "
    assert template.text({"tests": ("a b.py", "c.py")}) == "pytest a b.py c.py"


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30))
def test_no_value_gets_out_of_its_quotes(value: str) -> None:
    command = Template.parse("printf %s {v}").command({"v": value})
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    assert done.stdout.decode() == value
    assert done.stderr == b""


def test_names() -> None:
    assert Template.parse("{a} {b} {a} {{c}}").names == ("a", "b")
