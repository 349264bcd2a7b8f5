from __future__ import annotations

import re

import pytest

from dsv4_prompts import prompt, tool_description
from dsv4_tools.registry import default_tools


@pytest.mark.parametrize("name", sorted(default_tools()))
def test_every_tool_is_described_briefly(name: str) -> None:
    text = tool_description(name)
    lines = text.split("\n")
    assert 2 <= len(lines) <= 8
    assert tool_description(name, "nano") == lines[0]
    assert len(lines[0]) < 60
    assert text == text.strip()


def test_the_system_prompt_holds_nothing_that_changes() -> None:
    text = prompt("system")
    assert 1_000 < len(text) < 5_000
    assert not re.search(r"\b20\d\d\b|\{|\}|/home|/work", text)
    assert "<" not in text, "nothing that looks like wire format"


def test_unknown_names_are_refused() -> None:
    for name in ("nope", "../pyproject", "tools/shell", ""):
        with pytest.raises(KeyError):
            prompt(name)
    with pytest.raises(KeyError):
        tool_description("nope")
