"""Mistakes of this program: a client learns that there was one, the log its kind and place, nobody a text."""

from __future__ import annotations

import traceback

from dsv4_agent.server.api_errors import ApiError

__all__ = ["internal_error", "kind_and_place"]


def internal_error() -> ApiError:
    """What a client is told."""
    return ApiError(500, "Internal error.", kind="server_error", code="internal_error")


def kind_and_place(error: BaseException) -> str:
    """An exception's type and where it came from, without its message, which may quote a request."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames[-3:]]
    return f"{type(error).__name__} at {' > '.join(places) or 'an unknown place'}"
