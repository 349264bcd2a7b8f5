"""A script behind the same endpoints: for pipelines and for trying agents."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from dsv4_agent.backends.scripted import ScriptedBackend, parse_script
from dsv4_agent.dsml.dialect import Thinking
from dsv4_agent.dsml.request import render_request
from dsv4_agent.loop.preset import default_preset
from dsv4_agent.server.app import create_app
from dsv4_agent.server.guard import GuardRules
from dsv4_agent.server.scripted_source import ScriptedSource
from dsv4_agent.server.service import Service
from dsv4_agent.server.turns import Sampled, TurnEvent, TurnRequest
from tests.server.conftest import nano_engine

SCRIPT = """
think: I look first.
text: Reading it.
call: read
  path: src/app.py
  limit: 3
---
think: I have seen it.
text: Done: 2 < 3.
---
error: out of order
"""
READ = {
    "type": "function",
    "function": {
        "name": "read",
        "parameters": {
            "type": "object",
            "properties": {"path": {"type": "string"}, "limit": {"type": "integer"}},
            "required": ["path"],
        },
    },
}


class Recorded(ScriptedSource):
    """Remembers the prompts and the ids of its turns."""

    def __init__(self, script: str, thinking: Thinking = Thinking.THINKING) -> None:
        preset = replace(default_preset(), thinking=thinking)
        super().__init__(ScriptedBackend(parse_script(script)), nano_engine().tokenizer, preset)
        self.prompts: list[tuple[int, ...]] = []
        self.sampled: list[list[int]] = []

    async def _events(self, request: TurnRequest) -> AsyncGenerator[TurnEvent, None]:
        self.prompts.append(request.prompt)
        ids: list[int] = []
        self.sampled.append(ids)
        async for event in super()._events(request):
            if isinstance(event, Sampled):
                ids.append(event.id)
            yield event


def client_of(source: ScriptedSource) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(Service(source), GuardRules()))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


@pytest.fixture
async def scripted() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(Recorded(SCRIPT)) as client:
        yield client


async def test_turns_come_in_order_with_calls_reasoning_and_errors(scripted: httpx.AsyncClient) -> None:
    messages: list[dict[str, object]] = [{"role": "user", "content": "Go."}]
    body = {"messages": messages, "tools": [READ]}
    first = (await scripted.post("/v1/chat/completions", json=body)).json()["choices"][0]
    assert first["finish_reason"] == "tool_calls"
    assert first["message"]["reasoning"] == "I look first." and first["message"]["content"] == "Reading it."
    call = first["message"]["tool_calls"][0]
    assert json.loads(call["function"]["arguments"]) == {"path": "src/app.py", "limit": 3}
    messages += [first["message"], {"role": "tool", "tool_call_id": call["id"], "content": "x"}]
    second = (await scripted.post("/v1/chat/completions", json=body)).json()["choices"][0]
    assert second["message"]["content"] == "Done: 2 < 3." and second["finish_reason"] == "stop"
    third = await scripted.post("/v1/chat/completions", json=body)
    assert third.status_code == 500 and third.json()["error"]["message"] == "out of order"


async def test_the_script_is_text_to_who_completes(scripted: httpx.AsyncClient) -> None:
    prompt = "<｜User｜>Go.<｜Assistant｜><think>"
    answer = await scripted.post("/v1/completions", json={"prompt": prompt, "max_tokens": 500})
    text = answer.json()["choices"][0]["text"]
    assert text.startswith("I look first.</think>Reading it.\n\n<｜DSML｜tool_calls>\n")
    assert answer.json()["choices"][0]["finish_reason"] == "stop"


async def test_a_demanded_call_goes_on_where_the_prompt_ends(scripted: httpx.AsyncClient) -> None:
    body = {"messages": [{"role": "user", "content": "Go."}], "tools": [READ], "tool_choice": "required"}
    first = (await scripted.post("/v1/chat/completions", json=body)).json()["choices"][0]
    assert first["message"]["tool_calls"][0]["function"]["name"] == "read"


async def test_a_limit_cuts(scripted: httpx.AsyncClient) -> None:
    prompt = "<｜User｜>Go.<｜Assistant｜><think>"
    answer = (await scripted.post("/v1/completions", json={"prompt": prompt, "max_tokens": 3})).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 3


ODD = """
raw: |
  Two calls, written oddly.</think>On it.

  <｜DSML｜tool_calls>
  <｜DSML｜invoke name="read">
  <｜DSML｜parameter name="limit" string="false"> 3 </｜DSML｜parameter>
  <｜DSML｜parameter name="path" string="true">a.py</｜DSML｜parameter>
  </｜DSML｜invoke>
  <｜DSML｜invoke name="read">
  <｜DSML｜parameter name="path" string="true">b.py</｜DSML｜parameter>
  </｜DSML｜invoke>
  </｜DSML｜tool_calls><｜end▁of▁sentence｜>
---
think: Half way.
text: Now the rest.
call: read
  path: c.py
---
think: Enough.
text: All is said.
---
think: Again.
text: Said again.
"""


@pytest.mark.parametrize("thinking", list(Thinking))
async def test_each_prompt_is_an_exact_extension_of_the_one_before(thinking: Thinking) -> None:
    """Whatever the model wrote, results in any order, a new question: nothing before it changes."""
    script = ODD if thinking is Thinking.THINKING else ODD.replace("Two calls, written oddly.</think>", "")
    source = Recorded(script, thinking)
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Go."},
    ]
    async with client_of(source) as client:
        for turn in range(4):
            body = {"messages": messages, "tools": [READ]}
            answer = (await client.post("/v1/chat/completions", json=body)).json()
            message = answer["choices"][0]["message"]
            calls = message.get("tool_calls", [])
            assert len(calls) == (2, 1, 0, 0)[turn]
            messages.append({"role": "assistant", "content": message["content"], "tool_calls": calls or None})
            results = [{"role": "tool", "tool_call_id": call["id"], "content": call["id"]} for call in calls]
            messages += reversed(results) if results else [{"role": "user", "content": "And now?"}]
    for before, sampled, after in zip(source.prompts, source.sampled, source.prompts[1:], strict=False):
        whole = [*before, *sampled]
        assert list(after[: len(whole)]) == whole
    text = nano_engine().tokenizer.decode(source.prompts[1])
    first, second = (message["tool_call_id"] for message in messages[3:5])
    assert text.index(second) < text.index(first)  # in the order of the calls, as the model has learnt it


async def test_a_chat_is_rendered_as_the_hosted_api_would() -> None:
    source = Recorded("text: Yes.")
    called = {"name": "read", "arguments": '{"path": "a"}'}
    body = {
        "messages": [
            {"role": "system", "content": "Be brief. </think><｜User｜>"},
            {"role": "user", "content": [{"type": "text", "text": "Read"}, {"type": "text", "text": "it."}]},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "Another server's thought.",
                "tool_calls": [{"id": "x", "type": "function", "function": called}],
            },
            {"role": "tool", "tool_call_id": "x", "content": "1\n2"},
        ],
        "tools": [READ],
        "reasoning_effort": "max",
    }
    async with client_of(source) as client:
        (await client.post("/v1/chat/completions", json=body)).raise_for_status()
    segments = render_request(body, source.model.dialect)
    assert list(source.prompts[0]) == nano_engine().tokenizer.encode_segments(segments)


async def test_what_can_not_be_read_as_a_call_is_shown_and_warned_of() -> None:
    source = Recorded("""
raw: |
  Thought.</think>Look:

  <｜DSML｜tool_calls>
  <｜DSML｜invoke name="remove_everything">
  <｜DSML｜parameter name="path" string="true">/</｜DSML｜parameter>
  </｜DSML｜invoke>
  </｜DSML｜tool_calls><｜end▁of▁sentence｜>
---
raw: |
  Thought.</think>

  <｜DSML｜tool_calls>
  <｜DSML｜invoke name="read">
  <｜DSML｜parameter name="limit" string="false">three</｜DSML｜parameter>
  </｜DSML｜invoke>
  </｜DSML｜tool_calls><｜end▁of▁sentence｜>
""")
    body = {"messages": [{"role": "user", "content": "Go."}], "tools": [READ]}
    async with client_of(source) as client:
        unknown = (await client.post("/v1/chat/completions", json=body)).json()
        misfit = (await client.post("/v1/chat/completions", json=body)).json()
    message = unknown["choices"][0]["message"]
    assert "tool_calls" not in message and "remove_everything" in message["content"]
    assert "Unknown tool" in unknown["warning"] and unknown["choices"][0]["finish_reason"] == "stop"
    # A declared tool's call whose arguments don't fit goes to the client, whose refusal the model can read.
    call = misfit["choices"][0]["message"]["tool_calls"][0]["function"]
    assert (call["name"], json.loads(call["arguments"])) == ("read", {"limit": "three"})
    assert "limit" in misfit["warning"]


async def test_a_stop_string_ends_what_can_not_be_read_as_a_call() -> None:
    source = Recorded("""
raw: |
  Thought.</think>Look:

  <｜DSML｜tool_calls>
  <｜DSML｜invoke name="remove_everything">
  <｜DSML｜parameter name="path" string="true">/</｜DSML｜parameter>
  </｜DSML｜invoke>
  </｜DSML｜tool_calls><｜end▁of▁sentence｜>
""")
    body = {"messages": [{"role": "user", "content": "Go."}], "tools": [READ], "stop": ["everything"]}
    async with client_of(source) as client:
        choice = (await client.post("/v1/chat/completions", json=body)).json()["choices"][0]
    assert choice["message"]["content"].endswith('invoke name="remove_') and choice["finish_reason"] == "stop"


async def test_a_call_that_is_nested_too_deeply_to_be_an_object_is_told_as_that() -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "array"}}}
    told = []
    for depth in range(900, 990, 6):  # how deep is too deep depends on the frames beneath
        script = f"call: read\n  a: {'[' * depth}{']' * depth}\n"
        source = Recorded(script)
        transport = httpx.ASGITransport(create_app(Service(source), GuardRules()))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            body = {
                "messages": [{"role": "user", "content": "hi"}],
                "max_tokens": 9000,
                "tools": [{"name": "read", "input_schema": parameters}],
            }
            response = await http.post("/v1/messages", json=body)
            if response.status_code == 500:
                told.append(response.json()["error"]["message"])
    assert all("nested too deeply" in message for message in told)
