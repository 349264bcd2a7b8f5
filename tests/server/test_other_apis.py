"""Responses and Anthropic messages over a script: shapes, streams, round trips, refusals."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from dsv4_agent.backends.scripted import ScriptedBackend, parse_script
from dsv4_agent.loop.preset import default_preset
from dsv4_agent.server.app import create_app
from dsv4_agent.server.carried_thought import thought_in
from dsv4_agent.server.scripted_source import ScriptedSource
from dsv4_agent.server.service import Service
from tests.server.conftest import NO_RULES, Served, nano_engine, serving
from tests.server.test_scripted import Recorded

SCRIPT = """
think: I look first.
text: Reading it.
call: read
  path: src/app.py
---
think: I have seen it.
text: Done: 2 < 3.
---
error: out of order
"""
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
FUNCTION = {"type": "function", "name": "read", "description": "Read.", "parameters": SCHEMA}
TOOL = {"name": "read", "description": "Read.", "input_schema": SCHEMA}


@asynccontextmanager
async def scripted() -> AsyncIterator[tuple[httpx.AsyncClient, Recorded]]:
    source = Recorded(SCRIPT)
    app = create_app(Service(source), NO_RULES)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        yield http, source


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """Every event, whose name is its data's type."""
    found = []
    for block in response.text.strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


async def test_a_response_and_what_follows_it() -> None:
    async with scripted() as (http, source):
        first: dict[str, Any] = {"input": "Read it.", "instructions": "Be brief.", "tools": [FUNCTION]}
        answer = (await http.post("/v1/responses", json=first)).json()
        thought, said, call = answer["output"]
        assert (answer["status"], answer["object"], answer["store"]) == ("completed", "response", False)
        assert (thought["type"], thought["content"][0]["text"]) == ("reasoning", "I look first.")
        assert (said["type"], said["content"][0]["text"].strip()) == ("message", "Reading it.")
        assert (call["type"], call["name"]) == ("function_call", "read")
        assert json.loads(call["arguments"]) == {"path": "src/app.py"}
        usage = answer["usage"]
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        assert 0 < usage["output_tokens_details"]["reasoning_tokens"] < usage["output_tokens"]

        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "x = 1"}
        user = {"role": "user", "content": [{"type": "input_text", "text": "Read it."}]}
        again = {**first, "input": [user, thought, said, call, output]}
        answer = (await http.post("/v1/responses", json=again)).json()
        assert answer["output"][-1]["content"][0]["text"] == "Done: 2 < 3."
        # What was sampled comes back as it was: the second prompt goes on from the first turn's very tokens.
        whole = [*source.prompts[0], *source.sampled[0]]
        assert list(source.prompts[1][: len(whole)]) == whole


@pytest.mark.parametrize("forgets", [False, True])
async def test_a_thought_comes_back_by_the_field_that_clients_keep(forgets: bool) -> None:
    async with scripted() as (http, source):
        first = {"input": "Read it.", "tools": [FUNCTION], "include": ["reasoning.encrypted_content"]}
        answer = (await http.post("/v1/responses", json=first)).json()
        thought, *rest = answer["output"]
        kept = {"type": "reasoning", "summary": [], "encrypted_content": thought["encrypted_content"]}
        call = rest[-1] | ({"call_id": "call_of_another_server"} if forgets else {})
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "x = 1"}
        again = {**first, "input": [{"role": "user", "content": "Read it."}, kept, *rest[:-1], call, output]}
        await http.post("/v1/responses", json=again)
        prompt = source.model.codec.decode(source.prompts[1])
        assert "<think>I look first.</think>" in prompt
        plain = (await http.post("/v1/responses", json={**first, "include": None})).json()
        assert all("encrypted_content" not in item for item in plain.get("output", ()))


@pytest.mark.parametrize("value", [None, 3, "", "gAAAAB-of-another-provider", "dsv4:%%%", "dsv4:/w=="])
def test_fields_of_others_carry_no_thought(value: object) -> None:
    assert thought_in(value) == ""


async def test_a_response_as_a_stream() -> None:
    async with scripted() as (http, _):
        body = {"input": "Read it.", "tools": [FUNCTION], "stream": True}
        events = events_of(await http.post("/v1/responses", json=body))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = list(dict.fromkeys(event["type"] for event in events))
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_text.delta",
        "response.output_text.done",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.completed",
    ]
    said = "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
    last = events[-1]["response"]
    done = [e["item"] for e in events if e["type"] == "response.output_item.done"]
    assert last["output"] == done
    assert said == done[1]["content"][0]["text"]


async def test_a_stream_that_fails_says_so() -> None:
    async with scripted() as (http, _):
        for _ in range(2):
            await http.post("/v1/responses", json={"input": "x"})
        events = events_of(await http.post("/v1/responses", json={"input": "x", "stream": True}))
        assert events[-1]["type"] == "response.failed"
        assert events[-1]["response"]["error"]["message"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"previous_response_id": "resp_1"}, "not stored"),
        ({"background": True}, "background"),
        ({"input": [{"type": "computer_call"}]}, "computer_call"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "Only text"),
        ({"input": [{"type": "function_call", "name": "x"}]}, "call_id"),
        ({"input": 3}, "input"),
        ({"text": {"format": {"type": "json_schema"}}}, "schema"),
        ({"tools": [{"type": "web_search"}, {"type": "function", "name": "x y"}]}, "'tools.1.name'"),
        ({"tools": [{"type": "function"}]}, "'tools.0.name'"),
        ({"tools": [{"type": "function", "name": "x", "parameters": {"properties": 5}}]}, "properties must"),
    ],
)
async def test_responses_that_are_not_offered(change: dict[str, Any], words: str) -> None:
    async with scripted() as (http, _):
        response = await http.post("/v1/responses", json={"input": "x", **change})
        assert response.status_code == 400
        assert words in response.json()["error"]["message"]


async def test_tools_that_run_at_openai_are_passed_over() -> None:
    async with scripted() as (http, _):
        body = {"input": "Read it.", "tools": [{"type": "web_search"}, FUNCTION]}
        assert (await http.post("/v1/responses", json=body)).status_code == 200


async def test_a_message_and_what_follows_it() -> None:
    async with scripted() as (http, source):
        first: dict[str, Any] = {
            "max_tokens": 500,
            "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            "messages": [{"role": "user", "content": "Read it."}],
            "tools": [TOOL],
        }
        answer = (await http.post("/v1/messages", json=first)).json()
        assert (answer["type"], answer["role"], answer["stop_reason"]) == ("message", "assistant", "tool_use")
        thought, said, call = answer["content"]
        assert (thought["type"], thought["thinking"]) == ("thinking", "I look first.")
        assert said["text"].strip() == "Reading it."
        assert (call["name"], call["input"]) == ("read", {"path": "src/app.py"})
        result = {
            "type": "tool_result",
            "tool_use_id": call["id"],
            "content": [{"type": "text", "text": "x"}],
        }
        again = {
            **first,
            "messages": [
                *first["messages"],
                {"role": "assistant", "content": answer["content"]},
                {"role": "user", "content": [result, {"type": "text", "text": "Go on."}]},
            ],
        }
        answer = (await http.post("/v1/messages", json=again)).json()
        assert answer["stop_reason"] == "end_turn"
        assert answer["content"][-1] == {"type": "text", "text": "Done: 2 < 3."}
        whole = [*source.prompts[0], *source.sampled[0]]
        assert list(source.prompts[1][: len(whole)]) == whole
        counted = (await http.post("/v1/messages/count_tokens", json=again)).json()
        assert counted == {"input_tokens": len(source.prompts[1])}


async def test_a_message_as_a_stream() -> None:
    async with scripted() as (http, _):
        body = {
            "max_tokens": 500,
            "messages": [{"role": "user", "content": "x"}],
            "tools": [TOOL],
            "stream": True,
        }
        events = events_of(await http.post("/v1/messages", json=body))
    assert events[0]["type"] == "message_start"
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    starts = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
    assert starts == ["thinking", "text", "tool_use"]
    stops = [event["index"] for event in events if event["type"] == "content_block_stop"]
    assert stops == [0, 1, 2]
    parts = [e["delta"] for e in events if e["type"] == "content_block_delta"]
    arguments = "".join(part["partial_json"] for part in parts if part["type"] == "input_json_delta")
    assert json.loads(arguments) == {"path": "src/app.py"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "Only text"),
        ({"messages": [{"role": "assistant", "content": [{"type": "odd"}]}]}, "odd"),
        ({"messages": []}, "no messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "run at Anthropic"),
        ({"tools": [{"name": "x y", "input_schema": {}}]}, "'tools.0.name'"),
        ({"tools": [{"name": "x", "input_schema": {"properties": 5}}]}, "properties must be an object"),
        ({"tool_choice": {"type": "tool"}}, "name"),
        ({"tool_choice": {"type": "any"}}, "no tools"),
    ],
)
async def test_messages_that_are_not_offered(change: dict[str, Any], words: str) -> None:
    async with scripted() as (http, _):
        body = {"max_tokens": 5, "messages": [{"role": "user", "content": "x"}], **change}
        response = await http.post("/v1/messages", json=body)
        told = response.json()
        assert (response.status_code, told["type"]) == (400, "error")
        assert told["error"]["type"] == "invalid_request_error"
        assert words in told["error"]["message"]


async def test_tokens_in_both_forms(nano: Served) -> None:
    text = "a <｜User｜> b"
    codec = nano.service.model.codec
    seen = (await nano.http.post("/tokenize", json={"prompt": text})).json()
    assert seen["tokens"] == codec.encode(text, True)
    plain = (await nano.http.post("/tokenize", json={"content": text, "parse_special": False})).json()
    assert plain["tokens"] == codec.encode(text, False)
    back = (await nano.http.post("/detokenize", json={"tokens": plain["tokens"]})).json()
    assert back["content"] == text
    assert (await nano.http.post("/tokenize", json={})).status_code == 400
    assert (await nano.http.post("/detokenize", json={"tokens": [-1]})).status_code == 400


async def test_metrics_and_the_ledger(nano: Served) -> None:
    answer = await nano.complete(prompt="Hello there", max_tokens=5, temperature=0)
    text = (await nano.http.get("/metrics")).text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values['dsv4_requests_total{endpoint="/v1/completions",status="200"}'] == "1.0"
    assert values['dsv4_turns_total{outcome="finished"}'] == "1.0"
    assert float(values['dsv4_tokens_total{kind="sampled"}']) == answer["usage"]["completion_tokens"]
    assert float(values['dsv4_kv_bytes{kind="window"}']) > 0
    assert values['dsv4_kv_timelines{state="idle"}'] == "1.0"
    assert values["dsv4_time_to_first_token_seconds_count"] == values["dsv4_turn_wait_seconds_count"] == "1.0"
    assert values["dsv4_turn_tokens_per_second_count"] == "1.0"
    assert (await nano.http.get("/nowhere/secret-name")).status_code == 404
    assert "secret-name" not in (await nano.http.get("/metrics")).text
    ledger = (await nano.http.get("/kv")).json()
    assert (ledger["running"], ledger["idle"]) == (0, 1)
    [row] = ledger["timelines"]
    assert row["tokens"] == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]
    assert sum(row["bytes_by_kind"].values()) == row["bytes"]
    assert sum(ledger["bytes_by_kind"].values()) == ledger["bytes"] > row["bytes"]
    assert row["bytes_shared"] == 0


async def test_the_ledger_tells_what_common_beginnings_save(nano: Served) -> None:
    opening = [*range(20, 20 + 400), nano.service.model.codec.user_id]
    for last in (5, 6, 7):
        await nano.complete(prompt=[*opening, last], max_tokens=2, temperature=0)
    ledger = (await nano.http.get("/kv")).json()
    assert len(ledger["timelines"]) == 3
    pages = sum(row["bytes_shared"] for row in ledger["timelines"])
    assert pages > 0
    assert pages % 3 == 0  # the same ones, held by all
    together = sum(row["bytes"] for row in ledger["timelines"])
    assert ledger["bytes"] - ledger["bytes_by_kind"]["boundaries"] == together - pages * 2 // 3
    told = {"running", "tokens", "computed", "boundaries", "bytes", "bytes_shared", "bytes_by_kind"}
    assert all(set(row) == told for row in ledger["timelines"])  # and nothing of what was said


async def test_a_script_has_no_ledger() -> None:
    preset = replace(default_preset(), temperature=0.0)
    source = ScriptedSource(ScriptedBackend(parse_script("text: x")), nano_engine().tokenizer, preset)
    transport = httpx.ASGITransport(create_app(Service(source), NO_RULES))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        assert (await http.get("/kv")).status_code == 404
        assert "dsv4_requests" in (await http.get("/metrics")).text


@pytest.mark.parametrize("place", ["output_config", "output_format"])
async def test_messages_keep_to_the_schema_that_was_asked_for(nano: Served, place: str) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "schema": schema}
    body = {
        "messages": [{"role": "user", "content": "Is it so?"}],
        "max_tokens": 300,
        "thinking": {"type": "disabled"},
        place: {"format": form} if place == "output_config" else form,
    }
    answer = (await nano.http.post("/v1/messages", json=body)).json()
    assert type(json.loads(answer["content"][-1]["text"])["ok"]) is bool


@pytest.mark.parametrize(
    ("path", "more", "words"),
    [
        ("/v1/messages", {"stop_sequences": ["x" * 1025]}, "A stop string may have 1,024 characters"),
        ("/v1/chat/completions", {"stop": "x" * 1025}, "A stop string may have 1,024 characters"),
        ("/v1/messages", {"output_config": {"effort": "huge"}}, "reasoning_effort must be one of"),
        ("/v1/responses", {"top_logprobs": 3}, "no logprobs"),
        ("/v1/responses", {"include": ["message.output_text.logprobs"]}, "no logprobs"),
    ],
)
async def test_what_is_not_done_is_refused(path: str, more: dict[str, Any], words: str) -> None:
    said = [{"role": "user", "content": "hi"}]
    body = {"input": "hi", **more} if path == "/v1/responses" else {"messages": said, **more}
    async with scripted() as (http, _):
        response = await http.post(path, json=body)
    assert response.status_code == 400 and words in response.json()["error"]["message"]


async def test_a_refusal_is_read_back_as_text() -> None:
    said = [{"role": "user", "content": "hi"}, {"role": "user", "content": "go on"}]
    answer = {"role": "assistant", "content": [{"type": "refusal", "refusal": "I would rather not."}]}
    async with scripted() as (http, source):
        body = {"messages": [said[0], answer, said[1]]}
        assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
        prompt = source.model.codec.decode(source.prompts[0])
    assert "I would rather not." in prompt


async def test_the_official_client() -> None:
    openai = pytest.importorskip("openai")
    async with (
        serving(nano_engine(), sockets=True) as served,
        openai.AsyncOpenAI(base_url=f"{served.http.base_url}/v1", api_key="none") as client,
    ):
        answer = await client.responses.create(model="nano", input="Hello", max_output_tokens=40)
        assert answer.output_text
        schema = {
            "type": "object",
            "properties": {"ok": {"type": "boolean"}},
            "required": ["ok"],
            "additionalProperties": False,
        }
        answer = await client.responses.create(
            model="nano",
            input="Is it so?",
            max_output_tokens=300,
            text={"format": {"type": "json_schema", "name": "x", "schema": schema}},
        )
        assert type(json.loads(answer.output_text)["ok"]) is bool
        assert answer.text.format.schema_ == schema and answer.text.format.name == "x"
        async with client.responses.stream(
            model="nano", input="Read a.py", tools=[FUNCTION], tool_choice="required"
        ) as stream:
            final = await stream.get_final_response()
        assert final.tool_choice == "required" and final.output[-1].name == "read"
        assert "path" in json.loads(final.output[-1].arguments)
