"""The repository that chats are held in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.small_repository import small_repository


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return small_repository(tmp_path, monkeypatch)
