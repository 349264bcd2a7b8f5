"""Checks that several endpoints make of a body's fields."""

from __future__ import annotations

from collections.abc import Sequence

from dsv4_agent.server.api_errors import bad_request
from dsv4_agent.server.limits import Limits

__all__ = ["check_stops", "stops_of"]

_LONGEST_STOP = 1024


def stops_of(stop: str | Sequence[str] | None) -> list[str]:
    """The stop strings of a request."""
    return [stop] if isinstance(stop, str) else list(stop or ())


def check_stops(stop: str | Sequence[str] | None, limits: Limits) -> None:
    """Raise `ApiError` for too many or too long stop strings."""
    strings = stops_of(stop)
    if len(strings) > limits.stops:
        raise bad_request(f"At most {limits.stops} stop strings are allowed.", "stop")
    if any(len(string) > _LONGEST_STOP for string in strings):
        raise bad_request(f"A stop string may have {_LONGEST_STOP:,} characters at most.", "stop")
