"""Where the shared conformance fixtures lie, if this machine has them."""

from __future__ import annotations

import os
from pathlib import Path


def _locate() -> Path | None:
    named = os.environ.get("DSV4_SHARED_FIXTURES")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "fixtures"
    return folder if folder.is_dir() else None


SHARED: Path | None = _locate()
