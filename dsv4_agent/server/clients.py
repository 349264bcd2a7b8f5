"""Who asks: the name under which requests are served in turn."""

from __future__ import annotations

from starlette.requests import Request

__all__ = ["client_of"]


def client_of(request: Request, user: str | None = None) -> str:
    """The `user` of a request's body where it names one, else its address and program."""
    host = request.client.host if request.client is not None else ""
    return f"{host} {user if user else request.headers.get('user-agent', '')[:128]}"
