"""The whole agent over a chat server: calls run once, histories stay legal, sessions come back the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dsv4_agent.backends.chat_server.backend import ChatServerBackend
from dsv4_agent.backends.chat_server.body import RequestBody
from dsv4_agent.backends.chat_server.manners import manners_of
from dsv4_agent.backends.facts import ServerKind
from dsv4_agent.backends.profile import Prices
from dsv4_agent.headless.schemas import events_schema
from dsv4_agent.loop.agent import Agent
from dsv4_agent.loop.assemble import make_agent
from dsv4_agent.loop.event_json import to_json
from dsv4_agent.loop.events import (
    ContextUpdated,
    Event,
    ItemCompleted,
    ItemDelta,
    Notice,
    Retry,
    RunResult,
    Subtype,
    TurnCompleted,
)
from dsv4_agent.loop.facts import Discarded
from dsv4_agent.loop.preset import default_preset
from dsv4_agent.permissions.decision import PermissionMode, Policy
from dsv4_agent.session.session import Session, replay

from .loopback import Answer, Server, backend_of, delta, piece, serving, sse
from .test_requests import deepseek, require_legal

SCHEMA = jsonschema.Draft202012Validator(events_schema())
LEAKED = (
    "\n\n<{0}tool_calls>\n<{0}invoke name=\"read\">\n<{0}parameter name=\"path\" string=\"true\">app.py"
    "</{0}parameter>\n</{0}invoke>\n</{0}tool_calls>"
)  # fmt: skip


class Lab:
    """A folder, a session, and what came of the runs."""

    def __init__(self, root: Path) -> None:
        self.workspace = root / "repo"
        self.workspace.mkdir()
        (self.workspace / "app.py").write_text("def old_name():\n    return 1\n")
        self.sessions = root / "sessions"
        self.session: Session | None = None
        self.events: list[Event] = []

    def agent(self, backend: ChatServerBackend, session: Session | None = None) -> Agent:
        self.session = session or self.session or Session.create(directory=self.sessions)
        policy = Policy(self.workspace, PermissionMode.ACCEPT_EDITS)
        return make_agent(self.workspace, backend, default_preset(), policy=policy, session=self.session)

    async def run(self, agent: Agent, prompt: str = "do it") -> RunResult:
        self.events = [event async for event in agent.run(prompt)]
        last = self.events[-1]
        assert isinstance(last, RunResult)
        for event in self.events:
            SCHEMA.validate(to_json(event))
        return last

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def results(self) -> list[str]:
        assert self.session is not None
        return [str(m["content"]) for m in self.session.transcript.messages() if m["role"] == "tool"]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def calling(*calls: tuple[str, object], thought: str = "Hm.", usage: Any = None) -> Answer:
    """A turn of thought and calls; arguments that are no text are JSON."""
    pieces = [
        piece(at, f"id{at}", name, given if isinstance(given, str) else json.dumps(given))
        for at, (name, given) in enumerate(calls)
    ]
    end: dict[str, Any] = delta("tool_calls", tool_calls=pieces)
    return Answer(sse(delta(reasoning_content=thought), {**end, "usage": usage} if usage else end))


def saying(text: str, finish: str = "stop", **more: Any) -> Answer:
    return Answer(sse(delta(finish, content=text, **more)))


READ = ("read", {"path": "app.py"})
EDIT = ("edit", {"path": "app.py", "old_string": "old_name", "new_string": "new_name"})


async def test_a_task_from_prompt_to_answer(lab: Lab) -> None:
    usage = {"prompt_tokens": 3000, "prompt_cache_hit_tokens": 1000, "completion_tokens": 50}
    prices = Prices(hit=1, miss=10, output=100)
    async with serving(calling(READ, EDIT, usage=usage), saying("Done.")) as server:
        backend = backend_of(server, ServerKind.DEEPSEEK, prices=prices)
        result = await lab.run(lab.agent(backend))
        await backend.close()
    assert (result.subtype, result.result) == (Subtype.SUCCESS, "Done.")
    assert result.files_changed == ("app.py",)
    assert (lab.workspace / "app.py").read_text() == "def new_name():\n    return 1\n"
    *_, assistant, first, second = server.requests[1]["messages"]
    assert assistant["reasoning_content"] == "Hm."
    assert [call["id"] for call in assistant["tool_calls"]] == ["id0", "id1"]
    assert [first["tool_call_id"], second["tool_call_id"]] == ["id0", "id1"]
    assert "old_name" in first["content"]
    assert result.usage.cost == pytest.approx((1000 * 1 + 2000 * 10 + 50 * 100) / 1e6)
    assert result.usage.currency == "USD"
    updated = lab.of(ContextUpdated)[0]
    assert (updated.kv.reused, updated.kv.prefilled, updated.kv.used) == (1000, 2000, 3050)
    assert lab.of(TurnCompleted)[0].usage.cached_input_tokens == 1000


async def test_sixty_turns_grow_at_their_end_and_come_back_from_the_journal(lab: Lab) -> None:
    turns = 60
    script: list[Callable[[dict[str, Any]], Answer] | Answer] = []

    def turn(request: dict[str, Any]) -> Answer:
        require_legal(request["messages"])
        assert deepseek(request).status == 200
        number = sum(message["role"] == "assistant" for message in request["messages"])
        given = {"path": "app.py", "limit": number + 1}
        return saying("Done.") if number == turns else calling(("read", given), thought=f"Turn {number}.")

    script.append(turn)
    async with serving(*script) as server:
        backend = backend_of(server, ServerKind.DEEPSEEK)
        result = await lab.run(lab.agent(backend))
        await backend.close()
    assert result.subtype is Subtype.SUCCESS
    assert result.num_turns == turns + 1
    before = b""
    for raw in server.raw:
        known = raw[: raw.index(b'],"stream":true')]
        assert known.startswith(before)
        before = known
    assert lab.session is not None
    again = replay(lab.session.journal_path).transcript
    assert again.messages() == lab.session.transcript.messages()
    body = RequestBody("m", manners_of(ServerKind.DEEPSEEK))
    tools = [tool["function"] for tool in server.requests[0]["tools"]]
    rebuilt = body.build(again.messages_by_entry()[:-1], tools, {"stream": True})
    assert rebuilt.startswith(before)


async def test_the_first_request_is_small(lab: Lab) -> None:
    async with serving(saying("Done.")) as server:
        backend = backend_of(server, ServerKind.VLLM)
        await lab.run(lab.agent(backend), "Rename old_name to new_name.")
        await backend.close()
    assert len(server.raw[0]) <= 14 * 1024, len(server.raw[0])


async def conversation(lab: Lab, *answers: Answer, kind: ServerKind = ServerKind.OPENAI) -> Server:
    """One run over a script of answers."""
    async with serving(*answers) as server:
        backend = backend_of(server, kind)
        await lab.run(lab.agent(backend))
        await backend.close()
    for request in server.requests:
        require_legal(request["messages"])
    return server


async def test_nothing_of_a_broken_turn_runs_and_nothing_of_it_is_lost(lab: Lab) -> None:
    write = piece(0, "id0", "write", '{"path": "made.txt", "content": "x"}')
    broken = sse(
        delta(reasoning_content="I wri"),
        delta(content="Writing"),
        delta(tool_calls=[write]),
        delta(tool_calls=[piece(1, "id1", "write", '{"path": "o')]),
        done=False,
    )
    await conversation(lab, Answer(broken, cut=True), calling(READ), saying("Done."))
    assert not (lab.workspace / "made.txt").exists()
    (retry,) = lab.of(Retry)
    lost = 'write({"path": "made.txt", "content": "x"})\nwrite({"path": "o)'
    assert retry.discarded == Discarded("I wri", "Writing", lost)
    assert (retry.attempt, retry.max) == (1, 5)
    partial = [e.item.text for e in lab.of(ItemCompleted) if getattr(e.item, "partial", False)]
    assert partial == ["Writing"]
    assert lab.session is not None
    journal = lab.session.journal_path.read_text()
    assert "I wri" in journal
    assert "made.txt" in journal
    assert "I wri" not in json.dumps(lab.session.transcript.messages())
    assert [len(m.get("tool_calls", [])) for m in lab.session.transcript.messages()] == [0, 0, 1, 0, 0]


async def test_what_was_said_when_all_attempts_fail_is_kept_and_the_next_prompt_is_legal(lab: Lab) -> None:
    broken = Answer(
        sse(delta(reasoning_content="Hm"), delta(tool_calls=[piece(0, "a", *READ[:1], "{}")])), cut=True
    )
    async with serving(broken, saying("Done.")) as server:
        backend = backend_of(server, ServerKind.DEEPSEEK, retries=0)
        agent = lab.agent(backend)
        assert (await lab.run(agent)).subtype in (Subtype.MODEL, Subtype.AUTH)
        assert (await lab.run(agent, "go on")).result == "Done."
        await backend.close()
    require_legal(server.requests[1]["messages"])
    assert [m["role"] for m in server.requests[1]["messages"]] == ["system", "user", "assistant", "user"]
    assert server.requests[1]["messages"][2]["reasoning_content"] == "Hm"
    assert lab.results == []


async def test_an_interrupted_call_is_answered_in_the_next_request(lab: Lab) -> None:
    async with serving(calling(READ, ("shell", {"command": "sleep 60"})), saying("Done.")) as server:
        backend = backend_of(server)
        policy = Policy(lab.workspace, PermissionMode.BYPASS)
        lab.session = Session.create(directory=lab.sessions)
        agent = make_agent(lab.workspace, backend, default_preset(), policy=policy, session=lab.session)
        async for event in agent.run("do it"):
            if to_json(event).get("item", {}).get("type") == "command_execution":
                agent.stop()
        await lab.run(agent, "go on")
        await backend.close()
    messages = server.requests[1]["messages"]
    require_legal(messages)
    first, second, said = messages[-3:]
    assert "old_name" in first["content"]
    assert "interrupted" in second["content"]
    assert said == {"role": "user", "content": "go on"}


MARKERS = ["｜DSML｜", "｜｜DSML｜｜"]


@pytest.mark.parametrize("marker", MARKERS)
async def test_a_call_that_leaks_into_the_answer_runs(lab: Lab, marker: str) -> None:
    server = await conversation(lab, saying("Reading." + LEAKED.format(marker)), saying("Done."))
    assert len(lab.results) == 1
    assistant = server.requests[1]["messages"][2]
    assert assistant["content"] == "Reading."
    assert assistant["tool_calls"][0]["id"] == "call_1_0"


@pytest.mark.parametrize("marker", MARKERS)
async def test_a_call_that_leaks_and_is_read_as_well_runs_once(lab: Lab, marker: str) -> None:
    twice = sse(
        delta(content="Reading." + LEAKED.format(marker)),
        delta("tool_calls", tool_calls=[piece(0, "id0", "read", '{"path": "app.py"}')]),
    )
    await conversation(lab, Answer(twice), saying("Done."))
    assert len(lab.results) == 1


async def test_half_a_leaked_call_beside_a_read_one_is_nobody_s_error(lab: Lab) -> None:
    half = sse(
        delta(content=LEAKED.format(MARKERS[0])[:60]),
        delta("tool_calls", tool_calls=[piece(0, "id0", "read", '{"path": "app.py"}')]),
    )
    await conversation(lab, Answer(half), saying("Done."))
    assert len(lab.results) == 1
    assert "old_name" in lab.results[0]


async def test_markup_in_reasoning_is_only_thought_about(lab: Lab) -> None:
    thought = "A call is written </think> as" + LEAKED.format(MARKERS[0]) + "<｜end▁of▁sentence｜>so."
    parts = [delta(reasoning_content=thought[at : at + 5]) for at in range(0, len(thought), 5)]
    server = await conversation(lab, Answer(sse(*parts, delta("stop", content="Fine."))))
    assert lab.results == []
    assert len(server.raw) == 1
    assert lab.session is not None
    message = lab.session.transcript.messages()[-1]
    assert (message["reasoning_content"], message["content"]) == (thought, "Fine.")
    assert "".join(event.text for event in lab.of(ItemDelta)) == thought + "Fine."
    again = replay(lab.session.journal_path).transcript
    assert again.messages() == lab.session.transcript.messages()


BAD: Sequence[tuple[str, str, str]] = [
    ("read", '{"path": "a', "not a valid JSON object"),
    ("read", "[1]", "must be a JSON object"),
    ("read", '{"path": "a"}{"path": "b"}', "not a valid JSON object"),
    ("read", '{"path": "a", "path": "b"}', "given more than once"),
    ("read", "{}", "missing required argument 'path'"),
    ("read", '{"path": NaN}', "not a valid JSON object"),
    ("read", '{"path": "\\ud800"}', "not a valid JSON object"),
    ("read", "[" * 50_000, "not a valid JSON object"),
    ("rm\nrf", "{}", "Unknown tool"),
]


@pytest.mark.parametrize(("name", "arguments", "error"), BAD)
async def test_what_can_not_be_read_is_told_to_the_model(
    lab: Lab, name: str, arguments: str, error: str
) -> None:
    server = await conversation(lab, calling((name, arguments)), saying("Sorry."))
    (result,) = lab.results
    assert error in result
    assert len(result) < 600
    assert server.requests[1]["messages"][-1]["content"] == result
    assert lab.session is not None
    assert replay(lab.session.journal_path).transcript.messages() == lab.session.transcript.messages()


@pytest.mark.parametrize(
    "arguments",
    [
        '{"path": "app.py", "limit": null}',
        '{"path": "app.py", "limit": "5"}',
        json.dumps(json.dumps({"path": "app.py"})),
        '{"arguments": {"path": "app.py"}}',
        '{"arguments": "{\\"path\\": \\"app.py\\"}"}',
        ' {"path": "app.py"}\n',
    ],
)
async def test_what_is_only_written_oddly_runs(lab: Lab, arguments: str) -> None:
    server = await conversation(lab, calling(("read", arguments)), saying("Done."))
    assert "old_name" in lab.results[0]
    sent = server.requests[1]["messages"][2]["tool_calls"][0]["function"]["arguments"]
    said = json.loads(arguments)
    assert json.loads(sent) == (said if isinstance(said, dict) else json.loads(said))


async def test_ids_that_are_missing_or_double_are_made_good(lab: Lab) -> None:
    pieces = [
        piece(at, id, "read", json.dumps({"path": "app.py", "limit": at + 1}))
        for at, id in enumerate(("x", "x", "", "y\n", None))
    ]
    server = await conversation(lab, Answer(sse(delta("tool_calls", tool_calls=pieces))), saying("Done."))
    found = [call["id"] for call in server.requests[1]["messages"][2]["tool_calls"]]
    assert found == ["x", "call_1_1", "call_1_2", "call_1_3", "call_1_4"]


async def test_a_turn_that_the_limit_cut_is_told(lab: Lab) -> None:
    pieces = [piece(0, "id0", "read", '{"path": "app.py"}'), piece(1, "id1", "write", '{"path": "made')]
    server = await conversation(lab, Answer(sse(delta("length", tool_calls=pieces))), saying("Done."))
    *_, result, said = server.requests[1]["messages"]
    assert result["tool_call_id"] == "id0"
    assert "cut off at the token limit" in said["content"]
    assert "truncated" in [notice.kind for notice in lab.of(Notice)]


async def test_a_run_that_a_killed_process_began_goes_on(lab: Lab) -> None:
    async with serving(calling(READ), saying("Done.")) as server:
        backend = backend_of(server)
        agent = lab.agent(backend)
        events = agent.run("do it")
        async for event in events:
            if isinstance(event, ContextUpdated):
                break  # the turn is on record, its call has not begun
        await events.aclose()
        await backend.close()
        assert lab.session is not None
        path = lab.session.journal_path
        lab.session.close()
        session = Session.resume(path)
        backend = backend_of(server)
        again = lab.agent(backend, session)
        lab.events = [event async for event in again.resume()]
        await backend.close()
        session.close()
    assert "old_name" in lab.results[0]
    require_legal(server.requests[1]["messages"])
    assert lab.events[-1].result == "Done."  # type: ignore[union-attr]


async def test_compaction_and_going_back_begin_a_legal_history_anew(lab: Lab) -> None:
    script = (calling(READ), saying("First."), saying("Second."), saying("All in all."), saying("Third."))
    async with serving(*script) as server:
        backend = backend_of(server, ServerKind.DEEPSEEK)
        agent = lab.agent(backend)
        for prompt in ("one", "two"):
            await lab.run(agent, prompt)
        agent.rewind(1)
        lab.events = [event async for event in agent.compact()]
        await lab.run(agent, "three")
        await backend.close()
    *_, compaction, after = server.requests
    assert "two" not in [m["content"] for m in compaction["messages"]]
    assert [m["role"] for m in after["messages"]] == ["system", "user"]
    assert "All in all." in after["messages"][1]["content"]
    for request in server.requests:
        require_legal(request["messages"])
        assert request["messages"][0] == server.requests[0]["messages"][0]


async def test_stopping_in_the_middle_of_a_stream_keeps_what_was_said(lab: Lab) -> None:
    hanging = Answer(sse(delta(reasoning_content="Hm."), delta(content="Half"), done=False), silent=True)
    async with serving(hanging, saying("Done.")) as server:
        backend = backend_of(server)
        agent = lab.agent(backend)
        async for event in agent.run("do it"):
            if isinstance(event, ItemDelta) and event.text == "Half":
                agent.stop()
        await server.left.wait()
        await lab.run(agent, "go on")
        await backend.close()
    require_legal(server.requests[1]["messages"])
    assert server.requests[1]["messages"][2] == {
        "role": "assistant", "content": "Half", "reasoning_content": "Hm."
    }  # fmt: skip


async def test_effort_is_a_word_of_the_request_and_costs_the_prefix(lab: Lab) -> None:
    async with serving(saying("One."), saying("Two.")) as server:
        backend = backend_of(server, ServerKind.VLLM)
        agent = lab.agent(backend)
        await lab.run(agent)
        medium = replace(default_preset(), effort="medium")
        price = agent.opening_price(medium)
        broken = agent.use(medium)
        await lab.run(agent)
        await backend.close()
    assert broken is not None
    assert broken.tokens == price > 1000
    assert [request.get("reasoning_effort") for request in server.requests] == [None, "medium"]
    first, second = (request["messages"] for request in server.requests)
    assert second[: len(first)] == first
