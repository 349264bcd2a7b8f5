"""A server of raw bytes: a test says what it sends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from dsv4_agent.backends.profile import Secret, ServerProfile, Timeouts

Handler = Callable[["Exchange"], Awaitable[None]]


@dataclass
class Exchange:
    """One request and the line to answer it on."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(
        self, status: int = 200, body: bytes = b"", kind: str = "application/json", **headers: str
    ) -> None:
        lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode() + body)

    async def begin(self, kind: str = "text/event-stream") -> None:
        """Headers of an answer that ends when the connection does."""
        await self.send(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n".encode())


@dataclass
class Server:
    """Where it listens and what it was asked."""

    url: str
    seen: list[Exchange] = field(default_factory=list)

    def profile(self, **changes: object) -> ServerProfile:
        given: dict[str, object] = {
            "name": "test",
            "base_url": self.url,
            "key": Secret("sk-very-secret"),
            "timeouts": Timeouts(connect=5, first_token=5, silence=5),
        }
        return ServerProfile(**{**given, **changes})  # type: ignore[arg-type]


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Handler], Awaitable[Server]]]:
    """Start a server that answers each request by a function."""
    running: list[asyncio.Server] = []

    async def start(handler: Handler) -> Server:
        found = Server("")

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while exchange := await _read(reader, writer):
                    found.seen.append(exchange)
                    await handler(exchange)
                    if exchange.writer.is_closing():
                        break
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        running.append(server)
        found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return found

    yield start
    for server in running:
        server.close()


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Exchange | None:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")[:-2]
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Exchange(method, path, headers, body, writer)
