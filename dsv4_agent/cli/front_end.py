"""Which front end suits the terminal: a drawn screen, or labelled lines that are never redrawn."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_READERS: Final = frozenset({"orca", "brltty", "espeakup", "speakup_soft"})
"""Process names of screen readers on Linux; other systems tell by ACCESSIBILITY_ENABLED or not at all."""


def wants_plain(environment: Mapping[str, str] = os.environ, processes: Path = Path("/proc")) -> bool:
    """Whether a screen would be no help: no terminal, a dumb one, a screen reader, or DSV4_PLAIN."""
    # The screen is drawn on standard error, so that one counts as well.
    terminal = all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))
    if not terminal or environment.get("TERM", "") in ("", "dumb"):
        return True
    if environment.get("DSV4_PLAIN") or environment.get("ACCESSIBILITY_ENABLED") == "1":
        return True
    return _reader_runs(processes)


def _reader_runs(processes: Path) -> bool:
    """Whether a screen reader of this user (or of the system) is at work."""
    try:
        entries = list(os.scandir(processes))
    except OSError:
        return False
    return any(entry.name.isdecimal() and _name(Path(entry.path)) in _READERS for entry in entries)


def _name(process: Path) -> str:
    try:
        if process.stat().st_uid not in (0, os.getuid()):
            return ""
        return (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
