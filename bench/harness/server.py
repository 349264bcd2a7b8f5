"""A model server that plays a script and notes when each request came, how large it was and what it held."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

from bench.harness import answers
from bench.harness.answers import Event, Turn

MODEL = "scripted-model"
WINDOW = 1_000_000
"""Tokens that the server says it has: no agent may need to shorten 400 small turns."""
_LINE_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request for a turn.

    Attributes:
        path: the endpoint's.
        began: clock seconds when its head was there.
        arrived: when all of its body was.
        answered: when the last byte of the answer had been handed to the system.
    """

    path: str
    body: bytes
    began: float
    arrived: float
    answered: float


@dataclass(slots=True)
class ScriptedServer:
    """Calls `tool` so many `turns`, then ends. Other requests get what agents ask of a server at their start.

    Attributes:
        arguments: the tool's arguments for a command.
        encode: text to ids, for agents that speak tokens.
        served_by: what `/v1/models` says the program is; agents ask for what it can do.
        aside: requests to an endpoint that were not about the task (they carry no tools): titles, summaries.
    """

    turns: int
    tool: str
    arguments: Callable[[str], Mapping[str, object]]
    encode: Callable[[str], list[int]] | None = None
    served_by: str = "harness"
    arrivals: list[Arrival] = field(default_factory=list)
    aside: int = 0
    url: str = ""
    other_paths: list[str] = field(default_factory=list)
    finished: asyncio.Event = field(default_factory=asyncio.Event)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it closes."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                began = perf_counter()
                method, target, _ = head.split("\r\n", 1)[0].split(" ")
                headers = _headers(head)
                if headers.get("expect") == "100-continue":
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = await _body(reader, headers)
                await self._answer(writer, method, target.partition("?")[0], body, began)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(
        self, writer: asyncio.StreamWriter, method: str, path: str, body: bytes, began: float
    ) -> None:
        arrived = perf_counter()
        play = self._player(path) if method == "POST" else None
        if play is None:
            self.other_paths.append(f"{method} {path}")
            status, found = self._other(method, path)
            await _send_json(writer, found, status)
            return
        asked: dict[str, Any] = json.loads(body)
        about_the_task = bool(asked.get("tools")) or "prompt" in asked
        turn = self._turn(about_the_task)
        if not asked.get("stream", False):
            await _send_json(writer, answers.whole_chat(turn, asked))
        else:
            await _send_events(writer, play(turn, asked), done=not path.endswith(("messages", "responses")))
        if not about_the_task:
            self.aside += 1
            return
        self.arrivals.append(Arrival(path, body, began, arrived, perf_counter()))
        if turn.tool is None:
            self.finished.set()

    def _turn(self, about_the_task: bool) -> Turn:
        number = len(self.arrivals) + 1
        if not about_the_task or number > self.turns:
            return Turn(number)
        # Another command each time, which does the same: some agents stop a model that repeats itself.
        return Turn(number, self.tool, self.arguments(f"true {number}"))

    def _player(self, path: str) -> Callable[[Turn, Mapping[str, Any]], Iterable[Event]] | None:
        match path.rsplit("/v1/", 1)[-1].strip("/"):
            case "chat/completions":
                return answers.chat
            case "responses":
                return answers.responses
            case "messages":
                return answers.messages
            case "completions" if self.encode is not None:
                return partial(answers.completions, self.encode)
        return None

    def _other(self, method: str, path: str) -> tuple[int, object]:
        if path.endswith("/models"):
            model = {
                "id": MODEL,
                "object": "model",
                "created": 1,
                "owned_by": self.served_by,
                "max_model_len": WINDOW,
            }
            return 200, {"object": "list", "data": [model], "models": []}
        if path.endswith("/count_tokens"):
            return 200, {"input_tokens": 10}
        if path.endswith("/tokenize") and self.encode is not None:
            return 404, {"error": {"message": "not offered"}}
        return 404, {"error": {"message": f"no {path}", "type": "not_found"}}


@asynccontextmanager
async def serving(server: ScriptedServer) -> AsyncIterator[ScriptedServer]:
    """Listen on a free port of this machine; `server.url` says where."""
    listening = await asyncio.start_server(server.connected, "127.0.0.1", 0, limit=_LINE_LIMIT)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listening.close()


def _headers(head: str) -> dict[str, str]:
    lines = [line.partition(":") for line in head.split("\r\n")[1:] if line]
    return {name.strip().lower(): value.strip().lower() for name, _, value in lines}


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    raw = await _raw_body(reader, headers)
    match headers.get("content-encoding", "identity"):
        case "gzip":
            import gzip

            return gzip.decompress(raw)
        case "zstd":
            import zstandard

            return zstandard.ZstdDecompressor().decompressobj().decompress(raw)
    return raw


async def _raw_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", 0)))
    parts = []
    while size := int((await reader.readline()).split(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readline()
    await reader.readline()
    return b"".join(parts)


async def _send_json(writer: asyncio.StreamWriter, value: object, status: int = 200) -> None:
    data = json.dumps(value).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    await writer.drain()


async def _send_events(writer: asyncio.StreamWriter, events: Iterable[Event], *, done: bool) -> None:
    """All events, each in a chunk of its own, written at once."""
    pieces = [b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"]
    for name, value in events:
        line = f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
        pieces.append(_chunk(f"event: {name}\n{line}" if name else line))
    if done:
        pieces.append(_chunk("data: [DONE]\n\n"))
    writer.write(b"".join([*pieces, b"0\r\n\r\n"]))
    await writer.drain()


def _chunk(text: str) -> bytes:
    data = text.encode()
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"
