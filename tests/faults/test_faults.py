"""The whole agent against servers that misbehave: no crash, no lost text, and nothing runs twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("tokenizers", reason="the token protocol needs a tokenizer")

from dsv4_agent.backends.base import Backend
from dsv4_agent.backends.chat_server.backend import ChatServerBackend
from dsv4_agent.backends.completions.backend import CompletionsBackend
from dsv4_agent.backends.facts import ServerFacts, ServerKind
from dsv4_agent.backends.http.retries import RetryPolicy
from dsv4_agent.backends.profile import ServerProfile, ServerProtocol, Timeouts
from dsv4_agent.loop.assemble import make_agent
from dsv4_agent.loop.events import Event, Retry, RunResult, Subtype
from dsv4_agent.loop.preset import nano_preset
from dsv4_agent.permissions.decision import PermissionMode, Policy
from dsv4_agent.session.journal import read_journal
from dsv4_agent.session.session import Session, replay
from dsv4_model.nano import WEIGHTS
from dsv4_model.tokenizer import Tokenizer
from tests.faults.faulty import (
    ANSWER,
    HEAD,
    THOUGHT,
    Fault,
    Faulty,
    answer,
    changed,
    cut,
    faulty,
    raw,
    silent,
    slowly,
)

TOKENIZER = Tokenizer.from_file(WEIGHTS / "tokenizer.json")
PROTOCOLS = tuple(ServerProtocol)


async def _no_pause(seconds: float) -> None:
    return


@dataclass
class Outcome:
    """What came of a run."""

    result: RunResult
    events: list[Event]
    session: Session
    workspace: Path
    server: Faulty

    @property
    def runs(self) -> int:
        """How often the command has run."""
        count = self.workspace / "count.txt"
        return count.read_text().count("ran") if count.exists() else 0

    @property
    def retries(self) -> list[Retry]:
        return [event for event in self.events if isinstance(event, Retry)]


def backend(server: Faulty, protocol: ServerProtocol) -> Backend:
    times = Timeouts(connect=5, first_token=5, silence=5)
    profile = ServerProfile(name="x", base_url=server.url, tokenizer="nano", timeouts=times)
    policy = RetryPolicy(4, sleep=_no_pause)
    if protocol is ServerProtocol.CHAT:
        return ChatServerBackend(profile, ServerFacts(kind=ServerKind.VLLM, model="m"), policy=policy)
    return CompletionsBackend(profile, ServerFacts(kind=ServerKind.VLLM, model="m"), policy=policy)


async def play(
    folder: Path, protocol: ServerProtocol, *faults: Fault | None, forever: bool = False
) -> Outcome:
    """Let the agent do its task against a server with these faults."""
    workspace = folder / "work"
    workspace.mkdir(parents=True)
    session = Session.create(directory=folder / "sessions", durable=False)
    async with faulty(TOKENIZER, *faults, forever=forever) as server:
        made = backend(server, protocol)
        agent = make_agent(
            workspace,
            made,
            nano_preset(),
            policy=Policy(workspace, PermissionMode.AUTO),
            session=session,
        )
        events = [event async for event in agent.run("Run it.")]
        await made.close()
    session.close()
    last = events[-1]
    assert isinstance(last, RunResult)
    return Outcome(last, events, session, workspace, server)


def succeeded(outcome: Outcome) -> None:
    """The task was done, once, and the journal holds what the model saw."""
    assert outcome.result.subtype is Subtype.SUCCESS, outcome.result
    assert outcome.result.result == ANSWER
    assert outcome.runs == 1
    rebuilt = replay(outcome.session.journal_path).transcript
    assert rebuilt.messages() == outcome.session.transcript.messages()
    kinds = [message["role"] for message in rebuilt.messages()]
    assert kinds == ["system", "user", "assistant", "tool", "assistant"]


def discarded_text(outcome: Outcome) -> str:
    """Everything that the journal says was dropped."""
    records = read_journal(outcome.session.journal_path).records
    return json.dumps([r.data for r in records if r.data.get("type") == "retry"], ensure_ascii=False)


@pytest.fixture
async def streams(tmp_path: Path) -> AsyncIterator[dict[ServerProtocol, list[bytes]]]:
    """The streams of a run without faults."""
    found = {}
    for protocol in PROTOCOLS:
        outcome = await play(tmp_path / f"whole-{protocol}", protocol)
        succeeded(outcome)
        found[protocol] = outcome.server.streams
    yield found


async def cut_everywhere(
    tmp_path: Path, protocol: ServerProtocol, streams: list[bytes], step: int, turn: int
) -> None:
    stream = streams[turn]
    # Behind the reason of its end a stream has nothing more to say, and isn't asked for again.
    finish = stream.index(b'"finish_reason": "' + (b"stop" if turn or protocol == "tokens" else b"tool"))
    for at in range(0, len(stream), step):
        faults = (None, cut(at)) if turn else (cut(at),)
        outcome = await play(tmp_path / f"cut-{turn}-{at}", protocol, *faults)
        succeeded(outcome)
        assert len(outcome.retries) == 1 or (at > finish and not outcome.retries)
        if protocol is ServerProtocol.CHAT and turn == 0 and outcome.retries and at > 600:
            assert THOUGHT.split(" ")[0] in discarded_text(outcome)


@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_stream_cut_anywhere(
    tmp_path: Path, streams: dict[ServerProtocol, list[bytes]], protocol: ServerProtocol, turn: int
) -> None:
    await cut_everywhere(tmp_path, protocol, streams[protocol], 131, turn)


@pytest.mark.slow
@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_stream_cut_at_every_byte(
    tmp_path: Path, streams: dict[ServerProtocol, list[bytes]], protocol: ServerProtocol, turn: int
) -> None:
    await cut_everywhere(tmp_path, protocol, streams[protocol], 1, turn)


PASSING: dict[str, Fault] = {
    "408": answer(408),
    "409": answer(409),
    "429": answer(429),
    "429 with seconds": answer(429, retry_after="1"),
    "429 with a date": answer(429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"),
    "500 in HTML": answer(500, b"<html>\x1b[2J<h1>Oops</h1></html>"),
    "503": answer(503, b""),
    "529": answer(529),
    "nothing at all": raw(b""),
    "no HTTP": raw(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "headers alone": raw(HEAD),
    "a wrong length": raw(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9\r\n\r\nd"
    ),
    "broken chunks": raw(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n"
    ),
    "an error in the stream": raw(HEAD + b'data: {"error": {"message": "worker died", "code": 500}}\n\n'),
    "no JSON": raw(HEAD + b"data: {nonsense\n\n"),
    "JSON that is no object": raw(HEAD + b"data: [1, 2]\n\n"),
}


@pytest.mark.parametrize("name", PASSING)
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_what_passes_is_tried_again(tmp_path: Path, protocol: ServerProtocol, name: str) -> None:
    outcome = await play(tmp_path, protocol, PASSING[name], None, PASSING[name])
    succeeded(outcome)
    assert len(outcome.retries) == 2
    assert all(retry.max == 4 and retry.reason for retry in outcome.retries)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_storm_of_refusals_has_an_end(tmp_path: Path, protocol: ServerProtocol) -> None:
    outcome = await play(tmp_path, protocol, answer(429), forever=True)
    assert outcome.result.subtype is Subtype.AUTH
    assert outcome.result.exit_code == 41
    assert len(outcome.retries) == 4 and outcome.server.requests == 5
    assert outcome.runs == 0


FINAL: dict[str, tuple[Fault, Subtype]] = {
    "401": (answer(401, b'{"error": {"message": "bad key"}}'), Subtype.AUTH),
    "403": (answer(403), Subtype.AUTH),
    "404": (answer(404), Subtype.MODEL),
    "a redirect": (answer(302, location="http://elsewhere.example/steal"), Subtype.MODEL),
    "a redirect here": (answer(307, location="/v2/chat"), Subtype.MODEL),
}


@pytest.mark.parametrize("name", FINAL)
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_what_does_not_pass_is_told_at_once(
    tmp_path: Path, protocol: ServerProtocol, name: str
) -> None:
    fault, subtype = FINAL[name]
    outcome = await play(tmp_path, protocol, fault, forever=True)
    assert outcome.result.subtype is subtype
    assert outcome.server.requests == 1
    assert outcome.result.error and "\n" not in outcome.result.error


GOOD: dict[str, Fault] = {
    "a byte at a time": slowly,
    "carriage returns": changed(lambda stream: stream.replace(b"\n", b"\r\n")),
    "comments between": changed(lambda stream: stream.replace(b"data:", b": ping\n\nevent: x\nid: 1\ndata:")),
    "no [DONE]": changed(lambda stream: stream.replace(b"data: [DONE]\n\n", b"")),
    "no last blank line": changed(lambda stream: stream.replace(b"data: [DONE]\n\n", b"").rstrip()),
    "a byte order mark": changed(lambda stream: b"\xef\xbb\xbf" + stream),
    "empty choices": changed(lambda stream: b'data: {"choices": []}\n\n' + stream),
    "unknown fields": changed(lambda stream: stream.replace(b'{"choices"', b'{"x": [null], "choices"')),
    "another content type": changed(lambda s: s, HEAD.replace(b"text/event-stream", b"text/plain")),
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_what_is_odd_but_whole_needs_no_further_attempt(
    tmp_path: Path, protocol: ServerProtocol, name: str
) -> None:
    outcome = await play(tmp_path, protocol, GOOD[name], GOOD[name])
    succeeded(outcome)
    assert outcome.retries == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_bytes_that_are_no_text_lose_nothing_else(tmp_path: Path, protocol: ServerProtocol) -> None:
    spoil = changed(lambda stream: stream.replace(b"Running", b"Run\xff\xfening", 1))
    outcome = await play(tmp_path, protocol, spoil)
    succeeded(outcome)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_line_without_end(
    tmp_path: Path, protocol: ServerProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dsv4_agent.backends.http import sse

    monkeypatch.setattr(sse, "LINE_LIMIT", 100_000)
    outcome = await play(tmp_path, protocol, raw(HEAD + b"data: " + b"x" * 300_000), forever=True)
    assert outcome.result.is_error
    assert outcome.runs == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_silence_is_given_up(
    tmp_path: Path, protocol: ServerProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Timeouts, "__init__", _impatient)
    outcome = await play(tmp_path, protocol, silent, None, silent)
    succeeded(outcome)
    assert [retry.reason for retry in outcome.retries] == ["silence", "silence"]


def _impatient(self: Timeouts, **_: float) -> None:
    for name in ("connect", "first_token", "silence"):
        object.__setattr__(self, name, 0.4)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_stopping_while_waiting_is_immediate(tmp_path: Path, protocol: ServerProtocol) -> None:
    workspace = tmp_path / "work"
    workspace.mkdir()
    async with faulty(TOKENIZER, silent, forever=True) as server:
        made = backend(server, protocol)
        agent = make_agent(workspace, made, nano_preset(), session=Session.create(directory=tmp_path / "s"))
        task = asyncio.create_task(_last(agent.run("Run it.")))
        while not server.requests:
            await asyncio.sleep(0.005)
        agent.stop()
        result = await asyncio.wait_for(task, 5)
        await made.close()
    assert isinstance(result, RunResult)
    assert result.subtype is Subtype.ABORTED


async def _last(events: AsyncIterator[Event]) -> Event | None:
    last = None
    async for event in events:
        last = event
    return last
