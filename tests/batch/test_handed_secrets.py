"""Keys reach a worker, but not by the environment that it is started with."""

from __future__ import annotations

import os

import pytest

from dsv4_agent.batch.handed_secrets import parted, take


def test_keys_go_by_the_line_and_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("DSV4_API_KEY", "MY_SECRET_X")
    shown, line = parted({"PATH": "/bin", names[0]: "sk-\udce9", names[1]: "two\nlines"})
    assert shown == {"PATH": "/bin"} and line.count(b"\n") == 1
    for name in names:
        monkeypatch.setenv(name, "old")
    take(line)
    assert [os.environ[name] for name in names] == ["sk-\udce9", "two\nlines"]
    take(b"")
    assert os.environ[names[0]] == "sk-\udce9"
