"""Where dsv4 keeps what is its own: tools must not read keys there, nor write rules that allow them more."""

from __future__ import annotations

from pathlib import Path

from dsv4_agent.session.session import state_directory
from dsv4_agent.workbench.settings import config_directory


def own_folders() -> tuple[Path, ...]:
    """Settings, keys and sessions. The keys also for themselves: someone may work on the settings' folder."""
    config = config_directory()
    return config, config / "keys", state_directory()
