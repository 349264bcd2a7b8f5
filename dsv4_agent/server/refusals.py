"""The refusals that have nothing to do with what was asked."""

from __future__ import annotations

from dsv4_agent.server.api_errors import ApiError

__all__ = ["busy", "closing", "too_slow"]


def busy(seconds: int) -> ApiError:
    """Too many wait already."""
    return ApiError(
        429,
        f"Too many requests are waiting. Try again in {seconds} s.",
        kind="rate_limit_error",
        code="queue_full",
        retry_after=seconds,
    )


def closing() -> ApiError:
    """The server is on its way out."""
    return ApiError(503, "The server is shutting down.", kind="server_error", code="shutting_down")


def too_slow(seconds: float) -> ApiError:
    """A request took longer than the server gives it."""
    message = f"The request took longer than the {seconds:g} s that this server allows."
    return ApiError(504, message, kind="server_error", code="timeout")
