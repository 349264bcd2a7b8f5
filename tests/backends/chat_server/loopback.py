"""A loopback server that answers chat completions from a script, and keeps what it was sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from dsv4_agent.backends.base import BackendEvent, GenerationRequest
from dsv4_agent.backends.chat_server.backend import ChatServerBackend
from dsv4_agent.backends.facts import ServerFacts, ServerKind
from dsv4_agent.backends.http.retries import RetryPolicy
from dsv4_agent.backends.profile import ServerProfile
from dsv4_agent.dsml.dialect import Dialect, Thinking

TOOLS: tuple[Mapping[str, Any], ...] = (
    {
        "name": "read",
        "description": "Read a file.",
        "parameters": {
            "type": "object",
            "properties": {"path": {"type": "string"}, "limit": {"type": "integer"}},
            "required": ["path"],
        },
    },
)


@dataclass
class Answer:
    """One response. `cut` closes the connection without the end of its body, `silent` leaves it open."""

    body: Sequence[bytes]
    status: int = 200
    kind: str = "text/event-stream"
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False
    silent: bool = False


Script = Sequence[Answer | Callable[[dict[str, Any]], Answer]]


def sse(*chunks: Mapping[str, Any] | str, done: bool = True) -> list[bytes]:
    """Events as most servers write them."""
    texts = [chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks]
    return [f"data: {text}\n\n".encode() for text in (*texts, *(["[DONE]"] if done else []))]


def delta(finish: str | None = None, **said: Any) -> dict[str, Any]:
    """A chunk with one choice."""
    return {"choices": [{"index": 0, "delta": said, "finish_reason": finish}]}


def piece(index: int | None, id: str | None = None, name: str | None = None, arguments: Any = None) -> Any:
    """One element of a `tool_calls` delta."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    outer = {"index": index, "id": id, "type": "function", "function": function}
    return {key: value for key, value in outer.items() if value is not None}


def refusal(status: int, message: object) -> Answer:
    """An error as OpenAI's servers word it."""
    return Answer([json.dumps({"error": {"message": message}}).encode()], status, "application/json")


class Server:
    """Plays a script, one answer a request; the last one for ever."""

    def __init__(self, script: Script) -> None:
        self.script = list(script)
        self.raw: list[bytes] = []
        self.url = ""
        self.left = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [json.loads(raw) for raw in self.raw]

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(asyncio.create_task(self._handle(reader, writer)))

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length:")[2].split("\r\n")[0])
        raw = await reader.readexactly(length)
        self.raw.append(raw)
        entry = self.script[min(len(self.raw), len(self.script)) - 1]
        answer = entry if isinstance(entry, Answer) else entry(json.loads(raw))
        lines = [f"HTTP/1.1 {answer.status} X", f"content-type: {answer.kind}", "transfer-encoding: chunked"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        for part in answer.body:
            writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            await writer.drain()
        if answer.silent:
            await reader.read()
            self.left.set()
        if answer.cut or answer.silent:
            return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


@asynccontextmanager
async def serving(*script: Answer | Callable[[dict[str, Any]], Answer]) -> AsyncIterator[Server]:
    """A server on a free port of loopback."""
    server = Server(script)
    listening = await asyncio.start_server(server.accept, "127.0.0.1", 0, limit=1 << 24)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        listening.close()
        for task in server.tasks:
            task.cancel()
        await asyncio.gather(*server.tasks, return_exceptions=True)


def backend_of(server: Server, kind: ServerKind = ServerKind.OPENAI, **profile: Any) -> ChatServerBackend:
    """A backend that waits for nothing between attempts."""

    async def at_once(seconds: float) -> None:
        return None

    made = ServerProfile(name="test", base_url=server.url, model="m", **profile)
    policy = RetryPolicy(made.retries, sleep=at_once)
    return ChatServerBackend(made, ServerFacts(kind=kind), policy=policy)


class Talk:
    """The conversation that a backend is shown: its entries' messages."""

    def __init__(self, *entries: Sequence[Mapping[str, Any]]) -> None:
        self.entries = [tuple(entry) for entry in entries]

    def messages_by_entry(self) -> list[tuple[Mapping[str, Any], ...]]:
        return list(self.entries)


OPENING = ({"role": "system", "content": "You are an agent.", "tools": []},)
PROMPT = ({"role": "user", "content": "Hello."},)


def asked(*entries: Sequence[Mapping[str, Any]], **request: Any) -> tuple[Any, GenerationRequest]:
    """A conversation and what is asked about it."""
    options = {"max_tokens": 1000, "thinking": Thinking.THINKING, "dialect": Dialect.V4, "tools": TOOLS}
    return Talk(*(entries or (OPENING, PROMPT))), GenerationRequest(**{**options, **request})


async def ask(
    backend: ChatServerBackend, *entries: Sequence[Mapping[str, Any]], **request: Any
) -> list[BackendEvent]:
    """All events of one generation."""
    try:
        return [event async for event in backend.generate(*asked(*entries, **request))]
    finally:
        await backend.close()
