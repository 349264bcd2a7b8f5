"""A stream cut at each of its bytes: what counts is the whole turn, and what doesn't is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("tokenizers", reason="the token protocol needs a tokenizer")

from dsv4_agent.backends.base import (
    BackendEvent,
    Finished,
    GenerationRequest,
    Retrying,
    SampledCall,
    SampledIds,
    SampledReasoning,
    SampledText,
)
from dsv4_agent.backends.profile import ServerProtocol
from dsv4_agent.dsml.dialect import Dialect, Thinking
from dsv4_agent.dsml.events import FinishReason
from dsv4_agent.loop.author import Author
from dsv4_agent.loop.context import RunFacts
from dsv4_agent.loop.preset import nano_preset
from dsv4_agent.session.session import Session
from dsv4_agent.session.transcript import Transcript
from tests.faults.faulty import COMMAND, THOUGHT, TURN, cut, faulty
from tests.faults.test_faults import TOKENIZER, backend

REQUEST = GenerationRequest(max_tokens=400, thinking=Thinking.THINKING, dialect=Dialect.V4)


def asked(folder: Path, protocol: ServerProtocol) -> Transcript:
    """A conversation in which the model is next."""

    class Encoding:
        def encode(self, segments: object) -> tuple[int, ...] | None:
            chat = protocol is ServerProtocol.CHAT
            return None if chat else tuple(TOKENIZER.encode_segments(segments))  # type: ignore[arg-type]

        @property
        def info(self) -> object:
            return type("Info", (), {"renders": protocol is ServerProtocol.CHAT})()

    session = Session.create(directory=folder, durable=False)
    author = Author(session, Encoding(), nano_preset(), (), RunFacts(cwd="/"))  # type: ignore[arg-type]
    author.open("Run it.")
    session.close()
    return session.transcript


def said(events: list[BackendEvent]) -> str:
    """All that was sampled, in one text."""
    parts = []
    for event in events:
        match event:
            case SampledIds(ids):
                parts.append(TOKENIZER.decode(ids))
            case SampledText(text) | SampledReasoning(text):
                parts.append(text)
            case SampledCall(_, name, arguments):
                parts.append(f"{name}({arguments})")
    return "".join(parts)


def attempts(events: list[BackendEvent]) -> tuple[list[BackendEvent], list[BackendEvent]]:
    """What was discarded, and what counts."""
    lost: list[BackendEvent] = []
    kept: list[BackendEvent] = []
    for event in events:
        if isinstance(event, Retrying) and event.discards:
            lost, kept = [*lost, *kept], []
        else:
            kept.append(event)
    return lost, kept


WHOLE = {
    ServerProtocol.CHAT: THOUGHT.replace(" ", "") + f"Running.shell({json.dumps({'command': COMMAND})})",
    ServerProtocol.TOKENS: f"{TURN}<｜end▁of▁sentence｜>",
}


@pytest.mark.parametrize("protocol", ServerProtocol)
async def test_every_cut_of_a_stream(tmp_path: Path, protocol: ServerProtocol) -> None:
    conversation = asked(tmp_path, protocol)
    async with faulty(TOKENIZER) as server:
        server.ids_a_piece = 8
        made = backend(server, protocol)
        whole = [event async for event in made.generate(conversation, REQUEST)]
        assert said(whole) == WHOLE[protocol]
        length = len(server.streams[0])
        for at in range(length):
            server.faults = iter((cut(at),))
            events = [event async for event in made.generate(conversation, REQUEST)]
            lost, kept = attempts(events)
            last = events[-1]
            assert isinstance(last, Finished) and last.reason is FinishReason.STOP, at
            assert said(kept) == WHOLE[protocol], at
            spoken = said([event for event in lost if not isinstance(event, SampledCall)])
            assert WHOLE[protocol].startswith(spoken), at
            assert protocol is ServerProtocol.CHAT or not lost, at
            retries = [event for event in events if isinstance(event, Retrying)]
            # Near the end nothing is missing any more but the end itself.
            assert len(retries) == 1 or (not retries and at > length - 60), at
        await made.close()
