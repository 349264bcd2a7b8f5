"""A connection to one server: JSON in, JSON or a stream of events out, every failure a `ServerError`."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

from dsv4_agent.backends.base import ModelError
from dsv4_agent.backends.http.address import Address, AddressError
from dsv4_agent.backends.http.connection import open_connection, proxy_of, secrets_of
from dsv4_agent.backends.http.errors import BrokenStreamError, ServerError, clean, of_status
from dsv4_agent.backends.http.sse import EventStream, TooLongError
from dsv4_agent.backends.profile import ServerProfile

if TYPE_CHECKING:
    import httpx

BODY_LIMIT = 64 << 20
"""Bytes of an answer that is no stream."""
_ERROR_LIMIT = 64 << 10
_DONE = "[DONE]"
_LINGER = 0.05
"""Seconds that the end of an answer may take once it was announced."""


class ServerClient:
    """Speaks to the server of a profile. Not bound to a loop until the first request.

    The key goes to the profile's own address only: redirects are errors. Raises `ModelError` for a profile
    that can't be used, at once or with the first request.
    """

    def __init__(self, profile: ServerProfile) -> None:
        try:
            self.address = Address.of(profile.base_url)
        except AddressError as error:
            raise ModelError(f"model {profile.name}: {error}") from error
        self.profile = profile
        self.where = f"the server {self.address.host}"
        self._secrets = secrets_of(profile)
        self._client: httpx.AsyncClient | None = None

    def url(self, path: str) -> str:
        """`/health` is a path of the server, `chat/completions` one of its API."""
        return self.address.root + path if path.startswith("/") else f"{self.address.api}/{path}"

    async def get_json(self, path: str, *, seconds: float | None = None) -> Any:
        """What `path` answers. Raises `ServerError`."""
        return await self._json("GET", path, None, seconds)

    async def post_json(self, path: str, body: Mapping[str, object], *, seconds: float | None = None) -> Any:
        """What `path` answers to a JSON body. Raises `ServerError`."""
        data = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
        return await self._json("POST", path, data, seconds)

    async def stream(self, path: str, body: bytes) -> AsyncGenerator[str, None]:
        """The data of each event that answers a JSON body; `[DONE]` ends it and is not given out.

        A whole JSON answer, from a server that doesn't stream, comes as one event. Raises `ServerError`, also
        when nothing came for too long; a comment is a sign of life, a line without end is none.
        """
        times = self.profile.timeouts
        async with self._request("POST", path, body, times.first_token) as response:
            chunks = response.aiter_bytes()
            kind = response.headers.get("content-type", "")
            if "event-stream" not in kind and "json" in kind:
                yield (await self._read(chunks, BODY_LIMIT, times.first_token)).decode("utf-8", "replace")
                return
            if "html" in kind:
                message = f"{self.where} answered with a web page, not with a model's words; check base_url"
                raise ServerError(message, reason="web_page")
            async with aclosing(self._events(chunks)) as events:
                async for data in events:
                    said = data.strip()
                    if said == _DONE:
                        await self._read_out(chunks)
                        return
                    if said:  # a blank one is how some proxies keep a connection alive
                        yield data

    async def _events(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[str, None]:
        """The data of all events; what was begun at the end counts as complete."""
        times = self.profile.timeouts
        events = EventStream()
        clock = asyncio.get_running_loop().time
        patience, alive, lines = times.first_token, clock(), 0
        chunk: bytes | None = b""
        while chunk is not None:
            chunk = await self._next(chunks, alive + patience - clock(), patience)
            try:
                found = events.end() if chunk is None else events.feed(chunk)
            except TooLongError as error:
                raise ServerError(f"{self.where} sent {error}: not read", reason="too_long") from error
            for data in found:
                patience = times.silence
                yield data
            if events.lines > lines:
                alive, lines = clock(), events.lines

    async def _read_out(self, chunks: AsyncIterator[bytes]) -> None:
        """Take the end of an answer, so that the connection serves the next request; it is there or never."""
        with contextlib.suppress(ServerError):
            while await self._next(chunks, _LINGER, _LINGER) is not None:
                pass

    async def aclose(self) -> None:
        """Close the connections; safe to call twice."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _json(self, method: str, path: str, body: bytes | None, seconds: float | None) -> Any:
        limit = self.profile.timeouts.first_token if seconds is None else seconds
        try:
            async with asyncio.timeout(limit), self._request(method, path, body, limit) as response:
                data = await self._read(response.aiter_bytes(), BODY_LIMIT, limit)
        except TimeoutError as error:
            raise self._silent(limit) from error
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            said = clean(data[:200].decode("utf-8", "replace"))
            message = f"{self.where} answered {path} with something that is not JSON ({said}); check base_url"
            raise ServerError(message, reason="not_json") from error

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, body: bytes | None, seconds: float
    ) -> AsyncIterator[httpx.Response]:
        import httpx

        client = self._open()
        headers = {"content-type": "application/json"} if body is not None else {}
        request = client.build_request(method, self.url(path), content=body, headers=headers)
        try:
            async with asyncio.timeout(seconds):
                response = await client.send(request, stream=True)
        except TimeoutError as error:
            raise self._silent(seconds) from error
        except httpx.ConnectTimeout as error:
            after = f"within {self.profile.timeouts.connect:g} s"
            raise self._unreachable(f"it did not answer {after}", "connect_timeout") from error
        except httpx.ConnectError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                text = f"{self.where} shows a certificate that isn't trusted: {self._clean(str(error))}"
                message = f"{text}; set the profile's ca_file to the CA that signed it"
                raise ServerError(message, reason="certificate", unreachable=True) from error
            raise self._unreachable(self._clean(str(error)), "connect_error") from error
        except httpx.ProxyError as error:
            raise self._unreachable(f"the proxy says {self._clean(str(error))}", "proxy_error") from error
        except (httpx.TransportError, httpx.InvalidURL, ValueError) as error:
            text = self._clean(str(error)) or type(error).__name__
            raise self._unreachable(text, "transport_error") from error
        try:
            if response.status_code != 200:
                said = await self._error_body(response)
                headers = {name: self._without_secrets(text) for name, text in response.headers.items()}
                if (target := headers.get("location")) is not None:  # shown as the base_url that it means
                    headers["location"] = target.rstrip("/").removesuffix("/" + path.lstrip("/"))
                raise of_status(self.where, response.status_code, headers, said)
            yield response
        finally:
            await response.aclose()

    async def _error_body(self, response: httpx.Response) -> bytes:
        """What an error says, as far as it can be had in a moment, secrets taken out."""
        try:
            data = await self._read(response.aiter_bytes(), _ERROR_LIMIT, 5.0)
        except ServerError:
            data = b""
        return self._without_secrets(data.decode("utf-8", "replace")).encode()

    async def _read(self, chunks: AsyncIterator[bytes], limit: int, seconds: float) -> bytes:
        parts: list[bytes] = []
        size = 0
        while (chunk := await self._next(chunks, seconds, seconds)) is not None:
            parts.append(chunk)
            size += len(chunk)
            if size > limit:
                message = f"{self.where} sent an answer of over {limit >> 10:,} KiB: not read"
                raise ServerError(message, reason="too_long")
        return b"".join(parts)

    async def _next(self, chunks: AsyncIterator[bytes], seconds: float, patience: float) -> bytes | None:
        """The next bytes, None at the end; `seconds` are left of the time that silence may last."""
        import httpx

        try:
            async with asyncio.timeout(seconds):
                return await anext(chunks, None)
        except TimeoutError as error:
            raise self._silent(patience) from error
        except (httpx.TransportError, httpx.DecodingError, httpx.StreamError) as error:
            said = self._clean(str(error)) or type(error).__name__
            raise BrokenStreamError(f"{self.where} broke the connection off: {said}; try again") from error

    def _open(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = open_connection(self.profile, self.address)
        return self._client

    def _unreachable(self, text: str, reason: str) -> ServerError:
        proxy = proxy_of(self.profile, self.address)
        by, and_proxy = ("", "") if proxy is None else (f" by {proxy}", " and the proxy")
        message = f"{self.where} can't be reached{by}: {text}; is it running, and base_url{and_proxy} right?"
        return ServerError(message, reason=reason, retryable=True, unreachable=True)

    def _silent(self, seconds: float) -> ServerError:
        times = self.profile.timeouts
        # A probe has a limit of its own, which no setting moves.
        settable = seconds in (times.first_token, times.silence)
        remedy = "raise the profile's timeouts if it is slow" if settable else "if it is starting, try again"
        message = f"{self.where} said nothing for {seconds:g} s; {remedy}"
        return ServerError(message, reason="silence", retryable=True, unreachable=True)

    def _clean(self, text: str) -> str:
        return clean(self._without_secrets(text))

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        return text
