"""Who may ask: the host a request is for, the page it comes from, the token it carries.

A page in the user's browser can reach loopback as well; DNS rebinding gives it our address under its own
name, which the Host header shows, and every other page shows its Origin.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dsv4_agent.server.api_errors import ApiError, error_response
from dsv4_agent.server.mistakes import internal_error, kind_and_place
from dsv4_agent.server.refusals import closing
from dsv4_agent.server.tokens import is_loopback

__all__ = ["Guard", "GuardRules"]

_log = logging.getLogger(__name__)
_OPEN_PATHS = frozenset({"/health"})
"""Answered without a token; they tell nothing but that someone is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardRules:
    """`tokens`: any of them opens; none leaves the door open. `hosts` and `origins` are allowed besides
    loopback's names and none.
    """

    tokens: tuple[str, ...] = ()
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()


class Guard:
    """ASGI middleware that refuses before anything of a body is read."""

    def __init__(self, app: ASGIApp, rules: GuardRules) -> None:
        self._app = app
        self._rules = rules
        self._hosts = frozenset(map(_name_of, rules.hosts))
        self._digests = tuple(_digest(token) for token in rules.tokens)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._refusal(scope)) is not None:
            response = error_response(refusal, scope["path"])
            response.headers["Connection"] = "close"
            self._open_to_page(scope, response)
            await response(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http":
            await self._contained(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _open_to_page(self, scope: Scope, response: Response) -> None:
        """Let a page that may use the server read why it wasn't served."""
        origin = Headers(scope=scope).get("origin")
        if origin in self._rules.origins:
            response.headers.update({"Access-Control-Allow-Origin": origin, "Vary": "Origin"})

    async def _contained(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; a mistake in it ends the request, and is told by its kind and place alone."""
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        async def tell(told: ApiError) -> None:
            if not begun:
                response = error_response(told, scope["path"])
                self._open_to_page(scope, response)
                await response(scope, receive, send)

        try:
            await self._app(scope, receive, sending)
        except asyncio.CancelledError:  # by the server, which ends and has waited long enough
            await tell(closing())
            raise
        except Exception as error:
            _log.error("a request failed: %s", kind_and_place(error))
            await tell(internal_error())

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        if not self._knows(headers.getlist("host")):
            return ApiError(
                421,
                "This server doesn't answer for that host name. Start it with --allowed-host NAME.",
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and origin not in self._rules.origins:
            return ApiError(
                403,
                "Web pages may not use this server. Start it with --allowed-origin ORIGIN.",
                kind="permission_error",
                code="origin_not_allowed",
            )
        if origin is not None and scope["method"] == "OPTIONS":
            return None  # what a browser asks beforehand carries no token, and is told nothing else
        if self._digests and scope["path"] not in _OPEN_PATHS and not self._opens(headers):
            return ApiError(
                401,
                "The token is missing or wrong. Send it as `Authorization: Bearer TOKEN`.",
                kind="authentication_error",
                code="invalid_api_key",
            )
        return None

    def _knows(self, hosts: list[str]) -> bool:
        if len(hosts) != 1:
            return False
        name = _name_of(hosts[0])
        return name == "localhost" or name in self._hosts or is_loopback(name)

    def _opens(self, headers: Headers) -> bool:
        """Whether a request carries the token, as OpenAI's or as Anthropic's clients send it."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = headers.get("x-api-key", "")
        digest = _digest(given.strip())
        # Digests are compared, and all of them, so that time tells neither length nor which one is near.
        found = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(found)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() and (":" not in name or name.endswith("]")) else host


def _name_of(host: str) -> str:
    """A host as a header or the command line writes it, in one spelling, without port and brackets."""
    name = _without_port(host.strip().lower())
    try:
        return str(ipaddress.ip_address(name.removeprefix("[").removesuffix("]")))
    except ValueError:
        return name
