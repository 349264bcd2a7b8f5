"""Where what can be made anew is kept."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder(kind: str) -> Path:
    """The folder of one kind of thing in ``DSV4_CACHE_DIR`` or the user's cache folder; it need not exist."""
    return Path(os.environ.get("DSV4_CACHE_DIR") or user_cache_path("dsv4", appauthor=False)) / kind
