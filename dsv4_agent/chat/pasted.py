"""Pasted text made harmless."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from dsv4_agent.workbench.plain_text import plain

_BREAK: Final = re.compile("\r\n|[\r\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Text without control characters, and how many were taken out."""

    text: str
    removed: int


def clean(text: str) -> Cleaned:
    """Keep lines and tabs; drop what could steer a terminal or hide from the eye."""
    broken = _BREAK.sub("\n", text)
    bad = {ord(character): None for character in set(broken) if plain(character) != character}
    kept = broken.translate(bad) if bad else broken
    return Cleaned(kept, len(broken) - len(kept))
