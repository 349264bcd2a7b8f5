"""Answers held to a schema: in this process, over the server, and after a break in the middle."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

pytest.importorskip("llguidance", reason="JSON schemas need it")

from dsv4_agent.backends.base import BackendEvent, BackendNotice, GenerationRequest, SampledIds
from dsv4_agent.backends.inprocess import InProcessBackend
from dsv4_agent.dsml.segments import Segment
from dsv4_agent.loop.preset import nano_preset
from dsv4_agent.session.transcript import Entry, EntryKind, Transcript
from tests.server.agent_prompt import nano_functions
from tests.server.conftest import Served, nano_engine
from tests.server.test_completions import prompt_of

SCHEMA = {
    "type": "object",
    "properties": {
        "done": {"type": "boolean"},
        "files": {"type": "array", "items": {"enum": ["a.py", "b.py"]}, "maxItems": 2},
    },
    "required": ["done", "files"],
    "additionalProperties": False,
}
BAD = {"type": "string", "pattern": "^(?=x)"}
PROMPT = prompt_of("How are you?")


async def in_process(schema: dict[str, Any], times: int = 1) -> tuple[list[int], list[str]]:
    """What the backend of `dsv4 run` samples, and the notices."""
    backend = InProcessBackend(nano_engine(), keeps=False)
    preset = nano_preset()
    request = GenerationRequest(
        400,
        preset.thinking,
        preset.dialect,
        tools=tuple(nano_functions()),
        temperature=0.0,
        thinking_budget=preset.thinking_budget,
        answer_schema=schema,
    )
    events: list[BackendEvent] = []
    for _ in range(times):
        transcript = Transcript([Entry(EntryKind.PROMPT, 0, (Segment("x", True),), tuple(PROMPT))])
        events += [event async for event in backend.generate(transcript, request)]
    await backend.close()
    ids = [id for event in events if isinstance(event, SampledIds) for id in event.ids]
    return ids, [event.text for event in events if isinstance(event, BackendNotice)]


def body(prompt: list[int], **extension: Any) -> dict[str, Any]:
    tools = {"tools": nano_functions(), "thinking_budget": nano_preset().thinking_budget}
    return {
        "prompt": prompt,
        "max_tokens": 400,
        "temperature": 0,
        "return_token_ids": True,
        "skip_special_tokens": False,
        "dsv4": {**tools, **extension},
    }


def answer_in(ids: list[int]) -> str:
    tokenizer = nano_engine().tokenizer
    assert ids[-1] == tokenizer.eos_id
    return tokenizer.decode(ids[:-1]).rpartition("</think>")[2]


async def test_the_same_answer_here_and_there(nano: Served) -> None:
    here, notices = await in_process(SCHEMA)
    jsonschema.validate(json.loads(answer_in(here)), SCHEMA)
    assert notices == []
    [choice] = (await nano.complete(**body(PROMPT, answer_schema=SCHEMA)))["choices"]
    assert choice["token_ids"] == here
    free = (await nano.complete(**body(PROMPT)))["choices"][0]["token_ids"]
    assert free != here


async def test_a_broken_stream_goes_on_in_the_middle_of_the_answer(nano: Served) -> None:
    whole = (await nano.complete(**body(PROMPT, answer_schema=SCHEMA)))["choices"][0]["token_ids"]
    for cut in range(1, len(whole), 7):
        budget = max(0, nano_preset().thinking_budget - cut)
        asked = body([*PROMPT, *whole[:cut]], answer_schema=SCHEMA, continues=cut, thinking_budget=budget)
        [rest] = (await nano.complete(**asked))["choices"]
        assert [*whole[:cut], *rest["token_ids"]] == whole


async def test_a_call_that_was_cut_goes_on_in_its_grammar(nano: Served) -> None:
    prompt = prompt_of("Rename the function `f` to `g` everywhere.")
    whole = (await nano.complete(**body(prompt, grammar="counted")))["choices"][0]["token_ids"]
    for cut in (len(whole) // 2, len(whole) - 3):
        asked = body([*prompt, *whole[:cut]], grammar="counted", continues=cut, thinking_budget=0)
        answer = await nano.complete(**asked)
        assert [*whole[:cut], *answer["choices"][0]["token_ids"]] == whole
        assert answer["dsv4"]["grammar"] == {"tokens": len(whole) - cut, "violations": 0}


async def test_a_schema_that_cannot_be_followed_is_told_once_and_no_error(nano: Served) -> None:
    ids, notices = await in_process(BAD, times=2)
    assert ids and len(notices) == 1 and "not held" in notices[0]
    answer = await nano.complete(**body(PROMPT, answer_schema=BAD))
    assert "not held" in answer["dsv4"]["notice"]
    assert answer["choices"][0]["token_ids"] == ids[: len(ids) // 2]


@pytest.mark.parametrize(
    ("change", "words"), [({"continues": -1}, "continues"), ({"continues": 99_999}, "prompt")]
)
async def test_more_than_the_prompt_cannot_continue(nano: Served, change: dict[str, Any], words: str) -> None:
    response = await nano.http.post("/v1/completions", json=body(PROMPT, **change))
    assert response.status_code == 400 and words in response.json()["error"]["message"]
