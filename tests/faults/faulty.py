"""A server with faults: it plays two turns in either protocol and does wrong what it is told to, first."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from dsv4_agent.dsml.dialect import EOS

COMMAND = "echo ran >> count.txt"
ANSWER = "It has run – once. 你好"
THOUGHT = "I run it first."
TURN = (
    f"{THOUGHT}</think>Running.\n\n<｜DSML｜tool_calls>\n"
    '<｜DSML｜invoke name="shell">\n'
    f'<｜DSML｜parameter name="command" string="true">{COMMAND}</｜DSML｜parameter>\n'
    "</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
)
LAST = f"Fine.</think>{ANSWER}"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
Fault = Callable[["Connection"], Any]


def sse(events: list[dict[str, Any]]) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def chat_stream(body: dict[str, Any]) -> bytes:
    """The turn that a chat request is due."""
    due_first = all(message["role"] != "tool" for message in body["messages"])

    def delta(finish: str | None = None, **said: Any) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": said, "finish_reason": finish}]}

    if due_first:
        head = {
            "index": 0,
            "id": "call_1",
            "type": "function",
            "function": {"name": "shell", "arguments": ""},
        }
        arguments = json.dumps({"command": COMMAND})
        pieces = [arguments[i : i + 7] for i in range(0, len(arguments), 7)]
        events = [
            *(delta(reasoning_content=word) for word in THOUGHT.split(" ")),
            delta(content="Running."),
            delta(tool_calls=[head]),
            *(delta(tool_calls=[{"index": 0, "function": {"arguments": piece}}]) for piece in pieces),
            delta("tool_calls"),
        ]
    else:
        events = [delta(reasoning_content="Fine."), *(delta(content=c) for c in ANSWER), delta("stop")]
    return sse(events) + b"data: [DONE]\n\n"


def completion_stream(body: dict[str, Any], tokenizer: Any, ids_a_piece: int = 1) -> bytes:
    """The rest of the turn that a completions request is due, from where its prompt leaves off."""
    prompt = body["prompt"]
    start = len(prompt) - prompt[::-1].index(tokenizer.assistant_id)
    # What follows the header is what an earlier connection has brought.
    begun = len(prompt) - start - 1
    user = tokenizer.decode(prompt[:start]).split("<｜User｜>")[-1]
    ids = tokenizer.encode((LAST if "<tool_result>" in user else TURN) + EOS, True)
    assert prompt[start + 1 :] == ids[:begun]
    decoder = tokenizer.stream_decoder()
    for id in ids[:begun]:
        decoder.push(id)
    events = []
    for place in range(begun, len(ids), ids_a_piece):
        some = ids[place : place + ids_a_piece]
        last = some[-1] == ids[-1] and place + len(some) == len(ids)
        text = "".join(map(decoder.push, some[:-1] if last else some))
        piece = {"index": 0, "text": text, "token_ids": some}
        events.append({"choices": [{**piece, "finish_reason": "stop" if last else None}]})
    return sse(events) + b"data: [DONE]\n\n"


@dataclass
class Connection:
    """One request, what it is due, and the line to answer on."""

    stream: bytes
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def status(self, status: int, body: bytes = b"{}", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} X", "content-type: application/json", f"content-length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "connection: close", "", ""]).encode() + body)


@dataclass
class Faulty:
    """Answers requests; `faults` are what the first ones get, `None` for a good answer."""

    tokenizer: Any
    faults: Iterator[Fault | None] = field(default_factory=lambda: iter(()))
    url: str = ""
    ids_a_piece: int = 1
    requests: int = 0
    streams: list[bytes] = field(default_factory=list)

    def _due(self, body: dict[str, Any]) -> bytes:
        if "messages" in body:
            return chat_stream(body)
        return completion_stream(body, self.tokenizer, self.ids_a_piece)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0)
            body = json.loads(await reader.readexactly(length))
            self.requests += 1
            stream = (
                chat_stream(body)
                if "messages" in body
                else completion_stream(body, self.tokenizer, self.ids_a_piece)
            )
            self.streams.append(stream)
            connection = Connection(stream, writer)
            fault = next(self.faults, None)
            if fault is None:
                await connection.send(HEAD + stream)
            else:
                await fault(connection)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def faulty(tokenizer: Any, *faults: Fault | None, forever: bool = False) -> AsyncIterator[Faulty]:
    """A server that does these faults, one a request; the last for ever, or none after them."""
    plan = itertools.chain(faults, itertools.repeat(faults[-1])) if forever else iter(faults)
    made = Faulty(tokenizer, plan)
    server = await asyncio.start_server(made.connected, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()


def cut(at: int) -> Fault:
    """The connection ends after so many bytes of the stream."""

    async def fault(connection: Connection) -> None:
        await connection.send(HEAD + connection.stream[:at])

    return fault


def answer(status: int, body: bytes = b"{}", **headers: str) -> Fault:
    """A status other than 200."""

    async def fault(connection: Connection) -> None:
        await connection.status(status, body, **headers)

    return fault


def raw(data: bytes) -> Fault:
    """Bytes in place of an answer."""

    async def fault(connection: Connection) -> None:
        await connection.send(data)

    return fault


def changed(change: Callable[[bytes], bytes], head: bytes = HEAD) -> Fault:
    """The stream, but changed."""

    async def fault(connection: Connection) -> None:
        await connection.send(head + change(connection.stream))

    return fault


async def slowly(connection: Connection) -> None:
    """A byte at a time."""
    await connection.send(HEAD)
    for index in range(len(connection.stream)):
        await connection.send(connection.stream[index : index + 1])
        if index % 16 == 0:
            await asyncio.sleep(0)


async def silent(connection: Connection) -> None:
    """Headers, and then nothing for ever."""
    await connection.send(HEAD)
    await asyncio.sleep(60)
