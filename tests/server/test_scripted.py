"""A script behind the same endpoints: for pipelines and for trying agents."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from dsv4_agent.backends.scripted import ScriptedBackend, parse_script
from dsv4_agent.loop.preset import default_preset
from dsv4_agent.server.app import create_app
from dsv4_agent.server.guard import GuardRules
from dsv4_agent.server.scripted_source import ScriptedSource
from dsv4_agent.server.service import Service
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


@pytest.fixture
async def scripted() -> AsyncIterator[httpx.AsyncClient]:
    source = ScriptedSource(ScriptedBackend(parse_script(SCRIPT)), nano_engine().tokenizer, default_preset())
    transport = httpx.ASGITransport(create_app(Service(source), GuardRules()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
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
