"""Slips of the finger and empty lists: what is said, and with which exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def dsv4(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("", "tools", "model", "prompts")),
        "DSV4_STATE_DIR": str(folder / "state"),
        "DSV4_CONFIG_DIR": str(folder / "config"),
        "XDG_RUNTIME_DIR": str(folder / "runtime"),
    }
    command = [sys.executable, "-P", "-m", "dsv4_agent.cli.main", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("chatt",), "chat"),
        (("docter",), "doctor"),
        (("batch", "chek", "plan.toml"), "check"),
        (("batch", "lst"), "list"),
        (("model", "lst"), "list"),
    ],
)
def test_a_command_that_was_meant_is_named(tmp_path: Path, arguments: tuple[str, ...], meant: str) -> None:
    done = dsv4(tmp_path, *arguments)
    assert done.returncode == 2
    assert f"Did you mean {meant!r}?" in done.stderr


def test_a_plan_may_have_any_name(tmp_path: Path) -> None:
    (tmp_path / "chek").write_text("prompt = 3\n")
    done = dsv4(tmp_path, "batch", "chek")
    assert (done.returncode, "Did you mean" in done.stderr) == (42, False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("batch", "list"), "no batches yet\n"), (("serve", "--list"), "no server runs\n")],
)
def test_empty_lists_say_so_beside_the_output(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = dsv4(tmp_path, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", said)


def test_a_repository_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text('prompt = "x"\nitems = { command = "echo a" }\n')
    done = dsv4(tmp_path, "batch", "check", "plan.toml", "-C", "nowhere")
    assert (done.returncode, done.stderr) == (42, "dsv4: error: nowhere is not a directory. Check -C.\n")
