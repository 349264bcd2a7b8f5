"""Over real sockets: clients that go away, a full house, the official client, an ending in good order."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import httpx
import pytest

from dsv4_agent.server import serving as serving_module
from dsv4_agent.server.limits import Limits
from tests.model import tiny
from tests.server.conftest import Served, nano_engine, serving

LONG = {"prompt": [20, 30, 40], "max_tokens": 600}


async def begin(served: Served, path: str = "/v1/completions", **body: Any) -> httpx.Response:
    """A stream of which the first chunk has come."""
    request = served.http.build_request("POST", path, json={**body, "stream": True})
    response = await served.http.send(request, stream=True)
    assert response.status_code == 200
    return response


async def test_a_client_that_closes_its_stream_frees_its_place(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(tiny.engine(), sockets=True) as served:
        scheduler = served.source.scheduler
        response = await begin(served, **LONG)
        await anext(response.aiter_lines())
        assert scheduler.running == 1
        await response.aclose()
        await served.until(lambda: scheduler.running == 0)
        assert scheduler.counts.cancelled == 1 and scheduler.counts.sampled_tokens < 600
    assert not caplog.records


async def test_a_server_that_ends_cuts_its_streams_quietly(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(tiny.engine(), sockets=True, patience=0.0) as served:
        response = await begin(served, **LONG)
        lines = response.aiter_lines()
        await anext(lines)
    assert not [record for record in caplog.records if record.name.startswith("dsv4")]
    assert served.source.scheduler.running == 0


async def test_a_client_that_gives_up_waiting_for_a_whole_answer_frees_its_place() -> None:
    async with serving(tiny.engine(), sockets=True) as served:
        scheduler = served.source.scheduler
        asking = asyncio.create_task(served.http.post("/v1/completions", json=LONG))
        await served.until(lambda: scheduler.running == 1)
        asking.cancel()
        await served.until(lambda: scheduler.running == 0)
        assert scheduler.counts.cancelled == 1


async def test_a_client_that_leaves_the_queue_is_never_computed() -> None:
    async with serving(tiny.engine(), Limits(sequences=1), sockets=True) as served:
        scheduler = served.source.scheduler
        first = await begin(served, **LONG)
        waiting = await begin(served, **LONG)
        await served.until(lambda: scheduler.waiting == 1)
        await waiting.aclose()
        await first.aclose()
        await served.until(lambda: scheduler.running == scheduler.waiting == 0)
        assert scheduler.counts.admitted == 1 and scheduler.counts.cancelled == 2


async def test_a_full_house_is_told_before_a_stream_begins() -> None:
    async with serving(tiny.engine(), Limits(sequences=1, queue=1), sockets=True) as served:
        first = await begin(served, **LONG)
        await served.until(lambda: served.source.scheduler.running == 1)
        second = await begin(served, **LONG)
        for stream in (True, False):
            refused = await served.http.post("/v1/completions", json={**LONG, "stream": stream})
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["type"] == "rate_limit_error"
        several = await served.http.post("/v1/completions", json={"prompt": [[20], [30]]})
        assert several.status_code == 429
        await first.aclose()
        await second.aclose()


async def test_a_request_that_takes_too_long_is_given_up() -> None:
    async with serving(tiny.engine(), Limits(sequences=1, seconds=0.0), sockets=True) as served:
        whole = await served.http.post("/v1/completions", json=LONG)
        assert whole.status_code == 504 and whole.json()["error"]["code"] == "timeout"
        response = await begin(served, **LONG)
        lines = [line async for line in response.aiter_lines() if line.startswith("data: {")]
        assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "timeout"
        await served.until(lambda: served.source.scheduler.running == 0)


async def test_the_official_client_streams_calls_and_reads_errors() -> None:
    openai = pytest.importorskip("openai", reason="the official client is a development package")
    tool = {
        "type": "function",
        "function": {
            "name": "echo",
            "parameters": {
                "type": "object",
                "properties": {"word": {"type": "string"}},
                "required": ["word"],
            },
        },
    }
    async with serving(nano_engine(), sockets=True) as served:
        base = str(served.http.base_url.join("/v1"))
        client = openai.AsyncOpenAI(base_url=base, api_key="none", max_retries=0)
        messages = [{"role": "user", "content": "hi"}]
        listed = await client.models.list()
        assert listed.data[0].id == "nano" and listed.data[0].owned_by == "dsv4"
        whole = await client.chat.completions.create(model="nano", messages=messages)
        async with client.chat.completions.stream(model="nano", messages=messages) as stream:
            final = await stream.get_final_completion()
        assert final.choices[0].message.content == whole.choices[0].message.content
        call = await client.chat.completions.create(
            model="nano", messages=messages, tools=[tool], tool_choice="required", max_tokens=80
        )
        assert call.choices[0].message.tool_calls[0].function.name == "echo"
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model="nano", messages=messages, n=2)
        assert refused.value.param == "n"
        await client.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /health HTTP/1.1\r\nHost: local",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n{",
    ],
)
async def test_a_connection_that_brings_no_request_is_closed(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_module, "_IDLE", 0.05)
    async with serving(tiny.engine(), sockets=True) as served:
        url = served.http.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(sent)
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 60)  # to the end, which never came
        writer.close()
