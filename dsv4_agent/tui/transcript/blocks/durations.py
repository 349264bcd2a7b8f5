"""Durations in few words."""

from __future__ import annotations


def duration(seconds: float | None) -> str:
    """`seconds` as "3 s" or "2 min 5 s"; empty below one second and where unknown."""
    if seconds is None or seconds < 1:
        return ""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def precise(milliseconds: int) -> str:
    """A measured time as "40 ms" or "1.2 s"; empty for 0, which means not measured."""
    if milliseconds <= 0:
        return ""
    if milliseconds < 1000:
        return f"{milliseconds} ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:.1f} s"
    return duration(milliseconds / 1000)
