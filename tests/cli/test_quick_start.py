"""What a start saves: nothing of it shows outside, and what is not needed is not imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = "call: shell\n  command: env\n---\ntext: done\n"


def run(folder: Path, **environment: str) -> str:
    """What a command of a run sees."""
    (folder / "script.txt").write_text(SCRIPT)
    command = [sys.executable, "-P", "-m", "dsv4_agent.cli.main", "run", "--model", "scripted:script.txt"]
    done = subprocess.run(
        [*command, "--permission-mode", "auto", "--skip-git-repo-check", "--json", "x"],
        cwd=folder,
        env={**os.environ, "DSV4_STATE_DIR": str(folder / "state"), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "PATH=" in done.stdout
    return done.stdout


def test_no_command_sees_our_setting(tmp_path: Path) -> None:
    assert "PYDANTIC_DISABLE_PLUGINS" not in run(tmp_path)


def test_a_setting_of_the_users_own_stays(tmp_path: Path) -> None:
    assert "PYDANTIC_DISABLE_PLUGINS=some" in run(tmp_path, PYDANTIC_DISABLE_PLUGINS="some")


def test_speaking_to_a_server_needs_no_screen_library() -> None:
    pytest.importorskip("httpx")
    code = (
        "import sys; import dsv4_agent.backends.http.client, httpx; "
        "print([name for name in ('rich', 'pygments') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
