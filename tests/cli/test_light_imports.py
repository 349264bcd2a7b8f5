"""Starting is cheap: what `--version` and `--help` may not import."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dsv4_agent.version import __version__

HEAVY = ("torch", "transformers", "textual", "pydantic", "numpy", "tokenizers", "git", "rich")
PROBE = f"""
import sys
sys.argv = ["dsv4", *sys.argv[1:]]
from dsv4_agent.cli.main import main
try:
    code = main()
except SystemExit as stop:
    code = stop.code
heavy = [name for name in {HEAVY!r} if name in sys.modules]
print("HEAVY", heavy, "CODE", code)
"""


def probe(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROBE, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    return done.stdout


@pytest.mark.parametrize("arguments", [("--version",), ("-V",), ("--help",)])
def test_nothing_heavy_is_imported(arguments: tuple[str, ...]) -> None:
    assert probe(*arguments).endswith("HEAVY [] CODE 0\n")


@pytest.mark.parametrize("arguments", [("run", "--help"), ("help", "exit-codes"), ("cache", "ls")])
def test_help_needs_no_model(arguments: tuple[str, ...]) -> None:
    """Typer's own adapters import pydantic when a command has parameters; everything else stays out."""
    heavy = probe(*arguments).splitlines()[-1]
    assert heavy in {"HEAVY [] CODE 0", "HEAVY ['pydantic'] CODE 0"}


def test_the_version() -> None:
    assert probe("--version").splitlines()[0] == f"dsv4 {__version__}"


def test_help_lists_the_commands() -> None:
    page = probe("--help")
    assert all(f"\n  {name} " in page for name in ("run", "demo", "cache", "debug", "help"))


def test_an_unknown_command_is_a_usage_error() -> None:
    assert probe("nonsense").endswith("CODE 2\n")


def test_options_for_what_does_not_exist_are_not_offered() -> None:
    page = probe("run", "--help")
    for option in ("--continue", "--resume", "--fork", "--worktree", "--commit"):
        assert option not in page
