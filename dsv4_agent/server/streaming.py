"""Server-sent events: chunks as they come, a comment when nothing comes for long, errors as a last chunk."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from dsv4_agent.server.api_errors import ApiError
from dsv4_agent.server.mistakes import internal_error, kind_and_place

__all__ = ["ClientGoneError", "EventStream", "data_line", "merged", "unless_gone"]

_log = logging.getLogger(__name__)
_QUIET = 10.0
"""Seconds after which a comment says that the server is still at work."""
_AHEAD = 64
"""Chunks that wait at most for a client that reads slowly."""
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
T = TypeVar("T")


class ClientGoneError(Exception):
    """Whoever asked has closed the connection."""


class EventStream(StreamingResponse):
    """A response that sends each chunk as one `data:` line and, with `done`, `[DONE]` at the end.

    With `named` an event has its chunk's `type` as its name, and `failure` makes the last chunk of an error.

    `close` is called when the response is over, however it ends, even if no chunk was ever asked for.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[Mapping[str, Any], None],
        close: Callable[[], None] = lambda: None,
        *,
        done: bool = True,
        named: bool = False,
        failure: Callable[[ApiError], Mapping[str, Any]] = ApiError.body,
    ) -> None:
        super().__init__(
            _lines(chunks, done, named, failure), media_type="text/event-stream", headers=_HEADERS
        )
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client closes the connection.

    The request's body must have been read. Raises `ClientGoneError`.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return await task
    finally:
        for pending in (task, watch):
            pending.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _lines(
    chunks: AsyncGenerator[Mapping[str, Any], None],
    done: bool,
    named: bool,
    failure: Callable[[ApiError], Mapping[str, Any]],
) -> AsyncGenerator[bytes, None]:
    # A task of its own asks for the chunks, so that waiting can time out, or be cancelled, at any moment.
    arrived: asyncio.Queue[Mapping[str, Any] | Over] = asyncio.Queue(maxsize=_AHEAD)
    asking = asyncio.ensure_future(_forward(chunks, arrived))
    try:
        while True:
            try:
                async with asyncio.timeout(_QUIET):
                    chunk = await arrived.get()
            except TimeoutError:
                yield b": still at work\n\n"
                continue
            if isinstance(chunk, Over):
                break
            yield _event(chunk, named)
    finally:
        asking.cancel()
    match chunk.error:
        case None:
            pass
        case ApiError() as error:
            yield _event(failure(error), named)
        case error:
            _log.error("a stream failed: %s", kind_and_place(error))
            yield _event(failure(internal_error()), named)
    if done:
        yield b"data: [DONE]\n\n"


def _event(chunk: Mapping[str, Any], named: bool) -> bytes:
    head = f"event: {chunk['type']}\n".encode() if named else b""
    return head + data_line(chunk)


def data_line(chunk: Mapping[str, Any]) -> bytes:
    """One event. ASCII only, so that nothing in it can end a line."""
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


async def merged(streams: list[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """Whatever comes first of several streams; an error of one ends all."""
    arrived: asyncio.Queue[T | Over] = asyncio.Queue(maxsize=_AHEAD)
    tasks = [asyncio.ensure_future(_forward(stream, arrived)) for stream in streams]
    try:
        left = len(tasks)
        while left:
            item = await arrived.get()
            if not isinstance(item, Over):
                yield item
                continue
            left -= 1
            if item.error is not None:
                raise item.error
    finally:
        for task in tasks:
            task.cancel()


@dataclass(frozen=True, slots=True)
class Over:
    """The end of a stream, by an error or without."""

    error: Exception | None = None


async def _forward(stream: AsyncGenerator[T, None], arrived: asyncio.Queue[T | Over]) -> None:
    try:
        async with aclosing(stream):
            async for item in stream:
                await arrived.put(item)
    except Exception as error:
        await arrived.put(Over(error))
    else:
        await arrived.put(Over())
