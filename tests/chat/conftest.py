"""The repository that chats are held in."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.chat.talking import GIT


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSV4_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("DSV4_CONFIG_DIR", str(tmp_path / "config"))
    root = tmp_path / "repo"
    root.mkdir()
    (root / "app.py").write_text("old = 1\n")
    for command in (("init", "-q"), ("add", "."), ("commit", "-qm", "first")):
        subprocess.run((*GIT, *command), cwd=root, check=True)
    return root
