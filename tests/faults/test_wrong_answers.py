"""Answers that are no stream, streams in disorder, servers elsewhere: no crash, and nothing runs twice."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("tokenizers", reason="the token protocol needs a tokenizer")

from dsv4_agent.backends.chat_server.backend import ChatServerBackend
from dsv4_agent.backends.facts import ServerFacts, ServerKind
from dsv4_agent.backends.http import client
from dsv4_agent.backends.http.retries import RetryPolicy
from dsv4_agent.backends.profile import ServerProfile, ServerProtocol
from dsv4_agent.loop.assemble import make_agent
from dsv4_agent.loop.events import Retry, RunResult, Subtype
from dsv4_agent.loop.preset import nano_preset
from dsv4_agent.session.session import Session
from tests.faults.faulty import HEAD, Connection, Fault, answer, changed, raw
from tests.faults.test_faults import PROTOCOLS, play, succeeded

ENDS = {Subtype.SUCCESS, Subtype.MODEL, Subtype.AUTH, Subtype.LOOP}
"""How a run may end whose model talks nonsense."""


def events_of(stream: bytes) -> list[bytes]:
    return [event + b"\n\n" for event in stream.split(b"\n\n") if event]


def reordered(seed: int) -> Fault:
    """All events but the last two, in another order."""

    def change(stream: bytes) -> bytes:
        *events, last, done = events_of(stream)
        random.Random(seed).shuffle(events)
        return b"".join([*events, last, done])

    return changed(change)


def doubled(seed: int) -> Fault:
    """Some of the events come twice."""

    def change(stream: bytes) -> bytes:
        chance = random.Random(seed)
        return b"".join(event * (1 + (chance.random() < 0.3)) for event in events_of(stream))

    return changed(change)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("disorder", [reordered, doubled])
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_disorder_is_survived(
    tmp_path: Path, protocol: ServerProtocol, disorder: Callable[[int], Fault], seed: int
) -> None:
    outcome = await play(tmp_path, protocol, disorder(seed))
    assert outcome.result.subtype in ENDS, outcome.result
    written = outcome.workspace / "count.txt"
    # What is doubled inside the command itself is another command, but that too runs once.
    assert not written.exists() or len(written.read_text().splitlines()) == 1
    assert outcome.result.error is None or "\n" not in outcome.result.error


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_the_end_comes_twice(tmp_path: Path, protocol: ServerProtocol) -> None:
    def change(stream: bytes) -> bytes:
        events = events_of(stream)
        return b"".join([*events, *events[-2:]])

    outcome = await play(tmp_path, protocol, changed(change), changed(change))
    succeeded(outcome)
    assert outcome.retries == []


PAGE = b"<!doctype html><title>Sign in</title>\x1b]0;owned\x07<p>Please sign in to the hotel network.</p>"


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_page_in_place_of_an_answer(tmp_path: Path, protocol: ServerProtocol) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n"
    outcome = await play(tmp_path, protocol, raw(head + PAGE), forever=True)
    assert outcome.result.subtype in {Subtype.MODEL, Subtype.AUTH}
    assert outcome.result.error and "\x1b" not in outcome.result.error and outcome.runs == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_an_error_that_calls_itself_a_success(tmp_path: Path, protocol: ServerProtocol) -> None:
    said = json.dumps({"error": {"message": "the model is being loaded", "type": "busy", "code": 503}})
    outcome = await play(tmp_path, protocol, answer(200, said.encode()), None, answer(200, said.encode()))
    succeeded(outcome)
    assert len(outcome.retries) == 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_an_error_page_without_end_is_cut(tmp_path: Path, protocol: ServerProtocol) -> None:
    sent = 0

    async def fault(connection: Connection) -> None:
        nonlocal sent
        await connection.send(b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\n\r\n")
        for _ in range(2_000):
            await connection.send(b"x" * 65_536)
            sent += 65_536

    outcome = await play(tmp_path, protocol, fault, forever=True)
    assert outcome.result.is_error and outcome.server.requests == 1
    assert outcome.result.error is not None and len(outcome.result.error) < 2_000
    assert sent < 64 << 20


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_body_without_end_is_not_kept(
    tmp_path: Path, protocol: ServerProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "BODY_LIMIT", 1 << 20)

    async def fault(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
        for _ in range(200):
            await connection.send(b" " * 65_536)

    outcome = await play(tmp_path, protocol, fault, forever=True)
    assert outcome.result.is_error and outcome.runs == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_the_key_and_the_task_go_to_no_other_host(tmp_path: Path, protocol: ServerProtocol) -> None:
    asked = []

    async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(65_536))
        writer.close()

    other = await asyncio.start_server(elsewhere, "127.0.0.1", 0)
    port = other.sockets[0].getsockname()[1]
    for status in (301, 302, 303, 307, 308):
        fault = answer(status, location=f"http://127.0.0.1:{port}/v1/chat/completions")
        outcome = await play(tmp_path / str(status), protocol, fault, forever=True)
        assert outcome.result.is_error and outcome.server.requests == 1
    other.close()
    assert asked == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_header_that_never_ends(tmp_path: Path, protocol: ServerProtocol) -> None:
    async def fault(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\n")
        for _ in range(4_000):
            await connection.send(b"x-padding: " + b"a" * 4_000 + b"\r\n")

    outcome = await play(tmp_path, protocol, fault, None, fault)
    succeeded(outcome)
    assert len(outcome.retries) == 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_byte_of_the_header_at_a_time(tmp_path: Path, protocol: ServerProtocol) -> None:
    async def fault(connection: Connection) -> None:
        for at in range(len(HEAD)):
            await connection.send(HEAD[at : at + 1])
        await connection.send(connection.stream)

    outcome = await play(tmp_path, protocol, fault, fault)
    succeeded(outcome)
    assert outcome.retries == []


async def test_a_server_without_tls_says_so(tmp_path: Path) -> None:
    """Https is spoken to a plain server: an error of one line, after the usual attempts."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    listening = await asyncio.start_server(plain, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    profile = ServerProfile(name="x", base_url=url, retries=2)
    policy = RetryPolicy(2, sleep=_at_once)
    made = ChatServerBackend(profile, ServerFacts(kind=ServerKind.VLLM, model="m"), policy=policy)
    session = Session.create(directory=tmp_path / "s", durable=False)
    agent = make_agent(tmp_path, made, nano_preset(), session=session)
    events = [event async for event in agent.run("Run it.")]
    await made.close()
    listening.close()
    last = events[-1]
    assert isinstance(last, RunResult) and last.subtype is Subtype.AUTH
    assert last.error and "\n" not in last.error
    assert sum(isinstance(event, Retry) for event in events) == 2


async def _at_once(seconds: float) -> None:
    return
