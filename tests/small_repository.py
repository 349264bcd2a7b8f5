"""A repository with one file and one commit, and settings and state of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

_GIT = ("git", "-c", "user.name=T", "-c", "user.email=t@example.invalid", "-c", "init.defaultBranch=main")


def small_repository(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make it in `folder`; its root."""
    monkeypatch.setenv("DSV4_STATE_DIR", str(folder / "state"))
    monkeypatch.setenv("DSV4_CONFIG_DIR", str(folder / "config"))
    root = folder / "repo"
    root.mkdir()
    (root / "app.py").write_text("old = 1\n")
    for command in (("init", "-q"), ("add", "."), ("commit", "-qm", "first")):
        subprocess.run((*_GIT, *command), cwd=root, check=True)
    return root
