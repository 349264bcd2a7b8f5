"""A server's protocol, read by this project's client: forced calls, streams, ids. Any model will do."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from bench.interop.served import Served
from dsv4_agent.backends.base import Backend, BackendEvent, Finished, SampledCall
from dsv4_agent.backends.chat_server.backend import ChatServerBackend
from dsv4_agent.backends.chat_server.chunks import read_chunk
from dsv4_agent.backends.chat_server.turn import TurnReader
from dsv4_agent.backends.completions.backend import CompletionsBackend
from dsv4_agent.backends.facts import ServerFacts
from dsv4_agent.backends.http.client import ServerClient
from dsv4_agent.backends.probe.light import probe
from dsv4_agent.backends.profile import Secret, ServerProfile, ServerProtocol
from dsv4_agent.loop.assemble import make_agent
from dsv4_agent.loop.events import Retry, RunResult
from dsv4_agent.loop.guards import Limits
from dsv4_agent.loop.preset import nano_preset
from dsv4_agent.permissions.decision import PermissionMode, Policy
from dsv4_agent.session.session import Session, replay

_MOST = 400
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {"path": {"type": "string", "maxLength": 12}},
                "required": ["path"],
                "additionalProperties": False,
            },
        },
    }
    for name, description in (("read", "Read a file."), ("list", "List a folder."))
]


@dataclass(frozen=True, slots=True)
class Turns:
    """What an agent's run against a server came to.

    Attributes:
        ids: of the sampled turns; empty for a server that tells none.
        rebuilt: the journal alone gives the same conversation.
    """

    ending: str
    retries: int
    sampled: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    cached_tokens: int
    rebuilt: bool


def profile_of(served: Served, protocol: ServerProtocol) -> ServerProfile:
    """As a user would write it."""
    key = None if served.key is None else Secret(served.key)
    return ServerProfile(
        name="peer",
        base_url=f"{served.url}/v1",
        protocol=protocol,
        tokenizer="nano" if protocol is ServerProtocol.TOKENS else None,
        preset="nano",
        key=key,
    )


async def facts_of(served: Served, protocol: ServerProtocol) -> ServerFacts:
    """What the probe of every start finds out."""
    profile = profile_of(served, protocol)
    client = ServerClient(profile)
    try:
        return (await probe(profile, client)).facts
    finally:
        await client.aclose()


async def forced_calls(served: Served, choice: object, model: str) -> tuple[list[SampledCall], Finished]:
    """The calls that a server streams where `tool_choice` leaves it no other way, as our reader sees them."""
    client = ServerClient(profile_of(served, ServerProtocol.CHAT))
    body = {**_forcing(choice, model), "stream": True, "stream_options": {"include_usage": True}}
    reader, events = TurnReader(_MOST), list[BackendEvent]()
    try:
        async for data in client.stream("chat/completions", json.dumps(body).encode()):
            events += reader.read(read_chunk(data))
    finally:
        await client.aclose()
    events += reader.end(estimated_input=0)
    calls = [event for event in events if isinstance(event, SampledCall)]
    return calls, next(event for event in events if isinstance(event, Finished))


async def whole_forced_call(served: Served, choice: object, model: str) -> list[tuple[str, str]]:
    """The same in one piece, as the server itself has read it: names and arguments."""
    client = ServerClient(profile_of(served, ServerProtocol.CHAT))
    try:
        answer = await client.post_json("chat/completions", _forcing(choice, model), seconds=300)
    finally:
        await client.aclose()
    functions = [call["function"] for call in answer["choices"][0]["message"]["tool_calls"]]
    return [(function["name"], function["arguments"]) for function in functions]


def _forcing(choice: object, model: str) -> dict[str, object]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": "Look around."}],
        "tools": TOOLS,
        "tool_choice": choice,
        "temperature": 1,
        "seed": 1,
        "max_tokens": _MOST,
        "chat_template_kwargs": {"thinking": False},
    }


async def converse(served: Served, protocol: ServerProtocol, folder: Path, turns: int = 2) -> Turns:
    """Let the agent talk to the server: greedy, a few short turns."""
    facts = await facts_of(served, protocol)
    profile = profile_of(served, protocol)
    backend: Backend
    if protocol is ServerProtocol.CHAT:
        backend = ChatServerBackend(profile, facts)
    else:
        backend = CompletionsBackend(profile, facts)
    work = folder / "work"
    work.mkdir(parents=True)
    session = Session.create(directory=folder / "sessions")
    limits = Limits(max_turns=turns, max_tokens_per_turn=40)
    policy = Policy(work, PermissionMode.PLAN)
    agent = make_agent(work, backend, nano_preset(), policy=policy, session=session, limits=limits)
    try:
        events = [event async for event in agent.run("Say something.")]
    finally:
        await backend.close()
        session.close()
    result = events[-1]
    assert isinstance(result, RunResult)
    sampled = [entry for entry in session.transcript.entries if entry.sampled]
    rebuilt = replay(session.journal_path).transcript
    return Turns(
        ending=f"{result.subtype}" + (f": {result.error}" if result.error else ""),
        retries=sum(isinstance(event, Retry) for event in events),
        sampled=tuple(entry.text for entry in sampled),
        ids=tuple(entry.ids or () for entry in sampled),
        cached_tokens=result.usage.cached_input_tokens,
        rebuilt=rebuilt.messages() == session.transcript.messages(),
    )
