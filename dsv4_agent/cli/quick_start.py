"""What makes a command start sooner, before the first large import."""

from __future__ import annotations

import gc
import os
from typing import Final

_FIRST: Final = 100_000
"""Objects; what imports make is hardly ever garbage, and looking for some takes a tenth of the start."""
_PLUGINS: Final = "PYDANTIC_DISABLE_PLUGINS"


def quicken() -> None:
    """Look for garbage only after the start, and keep pydantic from reading every package's metadata."""
    usual = gc.get_threshold()

    def settle(phase: str, info: dict[str, int]) -> None:
        if phase == "stop":
            gc.callbacks.remove(settle)
            gc.freeze()  # what the start has made stays to the end
            gc.set_threshold(*usual)

    gc.callbacks.append(settle)
    gc.set_threshold(_FIRST, *usual[1:])
    if _PLUGINS not in os.environ:
        from dsv4_tools.environment import withhold

        os.environ[_PLUGINS] = "1"
        withhold((_PLUGINS,))
