"""Bytes as people write and read them."""

from __future__ import annotations

import re
from typing import Final

_SIZE: Final = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*(?:(b)|([kmgtp])(i?b)?)?", re.ASCII | re.IGNORECASE)


def size(count: int) -> str:
    """Bytes for people, binary units."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1024
    raise AssertionError


def parse_size(text: str) -> int:
    """Bytes of `"4 GiB"`, `"500 MB"`, `"20g"` (binary, as KiB) or a plain number. Raises `ValueError`."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a size: write bytes, or as in 500 MB or 4 GiB")
    number, _, prefix, rest = found.groups()
    power = 0 if prefix is None else "kmgtp".index(prefix.lower()) + 1
    return int(float(number) * (1000 if rest is not None and rest.lower() == "b" else 1024) ** power)
