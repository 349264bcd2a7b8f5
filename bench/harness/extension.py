"""Whether a request only adds to the one before: then the server's cache holds all but what is new."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

_HISTORIES = ("messages", "input", "prompt")
_OPENINGS = ("model", "system", "instructions", "tools")


def history(body: bytes) -> tuple[list[Any], Any]:
    """What grows (messages, input items or token ids), and what must stay as it is."""
    asked = json.loads(body)
    name = next(name for name in _HISTORIES if name in asked)
    grown = asked[name]
    opening = {key: asked.get(key) for key in _OPENINGS}
    return list(grown), _uncached(opening)


def extends(before: bytes, after: bytes) -> bool:
    """Whether all that the model read is still there, in its place, unchanged."""
    old, old_opening = history(before)
    new, new_opening = history(after)
    return old_opening == new_opening and _uncached(new[: len(old)]) == _uncached(old)


def shared_bytes(before: bytes, after: bytes) -> float:
    """The share of the earlier body with whose bytes the later one begins."""
    low, high = 0, min(len(before), len(after))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if before[:middle] == after[:middle] else (low, middle - 1)
    return low / len(before)


def extensions(bodies: Sequence[bytes]) -> tuple[int, int]:
    """How many of the requests after the first are extensions, and how many there are."""
    pairs = list(pairwise(bodies))
    return sum(extends(before, after) for before, after in pairs), len(pairs)


def _uncached(value: Any) -> Any:
    """Without marks that only tell the server where to cache: they move, and the model doesn't read them."""
    match value:
        case dict():
            return {key: _uncached(held) for key, held in value.items() if key != "cache_control"}
        case list():
            return [_uncached(held) for held in value]
    return value
