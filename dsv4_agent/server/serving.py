"""The server's process: listen, say so, serve, and end in good order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from dsv4_agent.loop.events import Subtype
from dsv4_agent.server.connections import Connection
from dsv4_agent.server.limits import Limits
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.plain_text import plain_line

__all__ = ["Address", "Server", "listen", "serve"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_HEADER_BYTES: Final = 64 << 10
_IDLE: Final = 30
"""Seconds that a connection may take until it has brought the head of a request."""
_LAST_WORDS: Final = 3
"""Seconds beyond the patience for clients to read how their requests ended."""

Drain = Callable[[float], Awaitable[None]]
"""Refuses new turns, and lets running ones end within so many seconds; see `TurnSource.close`."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is reached."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """What clients take as their base URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/v1"


def listen(host: str, port: int) -> tuple[socket.socket, Address]:
    """A listening socket; port 0 takes a free one. Raises `RunFailure`."""
    try:
        family, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(target[:2], family=family, backlog=512)
    except (OSError, UnicodeError) as error:  # the latter for names that no host can have
        reason = error.strerror if isinstance(error, OSError) else "no host has such a name"
        cause = f"can't listen on {plain_line(host) or 'an empty --host'} port {port}: {reason or error}"
        other = "--host, such as 127.0.0.1" if _is_of_host(error) else "--port; 0 takes a free one"
        raise RunFailure(Subtype.CONFIG, cause, f"Choose another {other}.") from error
    return listener, Address(host, listener.getsockname()[1])


def _is_of_host(error: OSError | UnicodeError) -> bool:
    """Whether listening failed for the address, not for its port."""
    return isinstance(error, socket.gaierror | UnicodeError) or error.errno == errno.EADDRNOTAVAIL


def serve(
    app: ASGIApp,
    listener: socket.socket,
    limits: Limits,
    ready: Callable[[], None],
    patience: float,
    drain: Drain,
) -> None:
    """Serve until a signal comes; `ready` is called once requests are answered.

    What `ready` raises ends the server and is raised again. After the first signal running requests get
    `patience` seconds, a second one ends them at once. `drain` closes the source of turns.
    """
    server = Server(app, limits, ready, patience, drain)
    asyncio.run(server.serve(sockets=[listener]))
    if server.failure is not None:
        raise server.failure


class Server(uvicorn.Server):
    """uvicorn with this server's limits; see `serve`."""

    def __init__(
        self, app: ASGIApp, limits: Limits, ready: Callable[[], None], patience: float, drain: Drain
    ) -> None:
        super().__init__(_config(app, limits, patience))
        self._ready = ready
        self._patience = patience
        self._drain = drain
        self._drains: list[asyncio.Future[None]] = []
        self.failure: Exception | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.should_exit:
            return
        try:
            self._ready()
        except Exception as error:  # kept, so that the server ends in good order before it is told
            self.failure, self.should_exit = error, True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As the base class, which only waits for connections: turns learn at once that the server ends."""
        # What uvicorn says from here on is that it cancels what was told to end, and its tracebacks.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self._begin_drain()
        await super().shutdown(sockets)
        await asyncio.gather(*self._drains)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal, of whatever kind, asks the server to end, the second one to end at once."""
        if self.should_exit:
            self._patience = 0.0
            if self._drains:
                self._begin_drain()
                asyncio.get_running_loop().call_later(_LAST_WORDS, self._cut)
        self.should_exit = True

    def _begin_drain(self) -> None:
        self._drains.append(asyncio.ensure_future(self._drain(self._patience)))

    def _cut(self) -> None:
        for task in self.server_state.tasks:
            task.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As the base class, but a signal that was obeyed isn't raised again when all is over."""
        loop = asyncio.get_running_loop()
        # Who started it under nohup wants it to outlive the terminal.
        heard = [n for n in _SIGNALS if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
        for number in heard:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in heard:
                loop.remove_signal_handler(number)


def _config(app: ASGIApp, limits: Limits, patience: float) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=_IDLE,
        timeout_graceful_shutdown=None if math.isinf(patience) else math.ceil(patience) + _LAST_WORDS,
        h11_max_incomplete_event_size=_HEADER_BYTES,
    )
