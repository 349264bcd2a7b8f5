"""`dsv4 help settings` shows a file that can be read: the page and the reader know the same keys."""

from __future__ import annotations

from pathlib import Path

from dsv4_agent.cli import help_topics
from dsv4_agent.workbench.profile_table import ProfileTable
from dsv4_agent.workbench.settings import load_settings


def test_the_example_is_a_valid_file(tmp_path: Path) -> None:
    page = help_topics._SETTINGS.split("Without a file:")[0]
    lines = [line for line in page.splitlines() if line.startswith("  ") or not line]
    path = tmp_path / "config.toml"
    path.write_text("\n".join(lines))
    settings = load_settings(path)
    assert settings.model == "flash" and settings.models["flash"].key_env == "GPU_API_KEY"


def test_every_key_of_a_profile_is_named() -> None:
    page = help_topics._SETTINGS
    assert [key for key in ProfileTable.known() if key not in page] == []
