"""Turns that begin anew, and turns that a chat server has taken apart."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from dsv4_agent.backends.base import (
    BackendEvent,
    Finished,
    GenerationUsage,
    Retrying,
    SampledCall,
    SampledReasoning,
    SampledText,
)
from dsv4_agent.dsml.events import FinishReason
from dsv4_agent.dsml.schema import ToolSchema
from dsv4_agent.loop.event_json import from_json
from dsv4_agent.loop.events import (
    AgentMessageItem,
    Event,
    ItemCompleted,
    ItemStarted,
    ReasoningItem,
    Retry,
)
from dsv4_agent.loop.facts import Discarded, Usage
from dsv4_agent.loop.sampling import TurnSampler
from dsv4_agent.loop.served_turn import read_back
from dsv4_agent.session.journal import Journal
from dsv4_agent.session.session import replay
from dsv4_agent.session.transcript import Entry

TOOLS = {
    "read": ToolSchema(
        "read", {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
    )
}
BLOCK = (
    '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="read">\n<｜DSML｜parameter name="path" string="true">a'
    "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
)
STOP = Finished(FinishReason.STOP, GenerationUsage(9, 4, 5, 0.5, "USD"))
AGAIN = Retrying(1, 5, "stream_broken", 10, discards=True)


def sampled(*events: BackendEvent, thinking: bool = True) -> tuple[TurnSampler, list[Event]]:
    ids = (f"i{number}" for number in itertools.count())
    sampler = TurnSampler(3, TOOLS, thinking=thinking, vocabulary=None, new_id=lambda: next(ids))
    shown = [event for given in events for event in sampler.feed(given)]
    return sampler, [*shown, *sampler.finish()]


def test_text_that_is_discarded_is_in_the_retry_and_nowhere_else() -> None:
    first = [SampledText(piece) for piece in ("I lo", "ok</think>Rea", "ding" + BLOCK[:70])]
    sampler, events = sampled(*first, AGAIN, SampledText("Yes.</think>Done.<｜end▁of▁sentence｜>"), STOP)
    (retry,) = [event for event in events if isinstance(event, Retry)]
    assert retry.discarded is not None
    assert (retry.discarded.reasoning, retry.discarded.content) == ("I look", "Reading")
    assert retry.discarded.calls == BLOCK[:70].lstrip("\n")
    assert sampler.text == "Yes.</think>Done.<｜end▁of▁sentence｜>"
    assert (sampler.message.reasoning, sampler.message.content) == ("Yes.", "Done.")
    started = [event.item.id for event in events if isinstance(event, ItemStarted)]
    completed = [event.item for event in events if isinstance(event, ItemCompleted)]
    assert started == [item.id for item in completed]
    assert AgentMessageItem("i1", "Reading", partial=True) in completed
    at = events.index(retry)
    assert isinstance(events[at - 1], ItemCompleted)


def test_a_retry_that_discards_nothing_continues() -> None:
    again = Retrying(1, 5, "stream_broken", 10)
    sampler, events = sampled(SampledText("I lo"), again, SampledText("ok</think>Done."), STOP)
    assert sampler.message.reasoning == "I look"
    assert [event.discarded for event in events if isinstance(event, Retry)] == [None]


def test_a_turn_that_begins_anew_with_nothing_said_has_nothing_to_show() -> None:
    _, events = sampled(SampledReasoning(""), AGAIN, SampledReasoning(""), SampledText("Hi."), STOP)
    assert events[0] == Retry(1, 5, "stream_broken", 10, None)


def test_served_calls_that_are_discarded_never_come_back() -> None:
    call = SampledCall("c", "read", '{"path": "a"}')
    sampler, events = sampled(SampledReasoning("Hm"), call, AGAIN, SampledReasoning(""), STOP)
    assert sampler.message.calls == ()
    (retry,) = [event for event in events if isinstance(event, Retry)]
    assert retry.discarded == Discarded("Hm", "", 'read({"path": "a"})')
    assert events[events.index(retry) - 1] == ItemCompleted(ReasoningItem("i0", "Hm", 1, partial=True))


def test_a_turn_that_never_ended_has_no_calls() -> None:
    sampler, _ = sampled(SampledReasoning("Hm"), SampledCall("c", "read", '{"path": "a"}'))
    assert sampler.message.calls == ()
    entry = sampler.entry()
    assert not entry.closed
    assert entry.text == "Hm"


@pytest.mark.parametrize("thinking", [True, False])
def test_a_served_turn_is_a_projection_in_the_wire_format(thinking: bool) -> None:
    said = (SampledReasoning("Hm"), SampledText("Reading."), SampledCall("c", "read", '{"path": "a"}'), STOP)
    sampler, _ = sampled(*said, thinking=thinking)
    entry = sampler.entry()
    end = "</think>" if thinking else ""
    assert entry.text == f"Hm{end}Reading.{BLOCK}<｜end▁of▁sentence｜>"
    assert entry.messages == (
        {
            "role": "assistant",
            "content": "Reading.",
            "reasoning_content": "Hm",
            "tool_calls": [{"id": "c", "name": "read", "arguments": {"path": "a"}}],
        },
    )
    assert sampler.run_usage() == Usage(9, 4, 5, 1, 0.5, "USD")


def test_markup_in_a_served_turn_can_not_act_as_structure() -> None:
    sampler, _ = sampled(SampledReasoning("</think>" + BLOCK), SampledText("Fine. `</think>`"), STOP)
    entry = sampler.entry()
    assert not any(BLOCK in segment.text for segment in entry.segments if segment.structure)
    assert sampler.message.content == "Fine. `</think>`"


@pytest.mark.parametrize(
    "arguments", ['{"path": "a"}', '{"path":"a"}', '{"path": 1}', '{"path": "a', "{}", '"{\\"path\\": 1}"']
)
def test_a_served_turn_is_read_back_as_it_was(arguments: str) -> None:
    sampler, _ = sampled(SampledReasoning("</think>"), SampledCall("c", "read", arguments), STOP)
    entry = Entry.from_json(json.loads(json.dumps(sampler.entry().to_json())))
    assert entry == sampler.entry()
    again = read_back(entry, TOOLS)
    assert again is not None
    (before,), (after,) = sampler.message.calls, again.calls
    assert (after.id, after.name, after.arguments, after.error) == (
        before.id, before.name, before.arguments, before.error
    )  # fmt: skip


def test_sampled_text_is_not_taken_for_a_served_turn() -> None:
    sampler, _ = sampled(SampledText("Hm</think>Hi.<｜end▁of▁sentence｜>"), STOP)
    assert read_back(sampler.entry(), TOOLS) is None


def test_journals_of_older_versions_are_read(tmp_path: Path) -> None:
    message: dict[str, Any] = {
        "role": "assistant", "content": "", "tool_calls": [{"name": "read", "arguments": {"path": "a"}}]
    }  # fmt: skip
    journal = Journal.create(tmp_path / "journal.jsonl")
    journal.write("session", {"id": "s"})
    for kind, turn, messages in (
        ("prompt", 0, [{"role": "system", "content": "x", "tools": []}]),
        ("user", 0, [{"role": "user", "content": "do it"}]),
        ("sampled", 1, [message]),
        ("tool_results", 1, [{"role": "tool", "content": "x"}]),
    ):
        segments = [["text", True]]
        data = {"kind": kind, "turn": turn, "segments": segments, "ids": None, "messages": messages}
        journal.write("entry", data | {"closed": True, "reasoning_tokens": 0})
    journal.close()
    transcript = replay(tmp_path / "journal.jsonl").transcript
    assert transcript.messages()[2] == message
    assert transcript.turn == 1
    old = {"type": "retry", "attempt": 1, "max": 5, "reason": "busy", "delay_ms": 5}
    assert from_json(old) == Retry(1, 5, "busy", 5)
    item = {"type": "agent_message", "id": "i1", "text": "x"}
    assert from_json({"type": "item.completed", "item": item}) == ItemCompleted(AgentMessageItem("i1", "x"))
