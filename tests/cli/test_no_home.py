"""A user without a home directory, as in containers that run under any number."""

from __future__ import annotations

import pwd
from typing import NoReturn

import pytest

from dsv4_agent.cli.main import main


@pytest.mark.parametrize("arguments", [["model", "list"], ["doctor"]])
def test_it_is_told_without_a_traceback(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nobody(number: int) -> NoReturn:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in ("HOME", *(f"XDG_{kind}_HOME" for kind in ("CONFIG", "STATE", "CACHE"))):
        monkeypatch.delenv(name, raising=False)
    for name in ("DSV4_CONFIG_DIR", "DSV4_STATE_DIR", "DSV4_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("dsv4_agent.cli.quick_start.quicken", lambda: None)  # it sets a variable for good
    monkeypatch.setattr("sys.argv", ["dsv4", *arguments])
    assert main() == 52
    said = capsys.readouterr().err
    assert "Set HOME" in said and "Traceback" not in said
