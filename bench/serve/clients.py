"""Clients that stream one chat after the other, each a growing conversation of its own."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from time import monotonic

import httpx

TASKS = (
    "Rename total_price to final_cost everywhere.",
    "Find every use of apply_tax.",
    "What does the function unit_name do?",
    "Replace the word colour by color in README.md.",
    "List the Python files.",
    "Run the tests and tell me the result.",
)


@dataclass(slots=True)
class Tally:
    """What one client has seen. Times are in seconds."""

    finished: int = 0
    tokens: int = 0
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)


async def client(
    number: int, url: str, token: str, until: float, tally: Tally, http: httpx.AsyncClient
) -> None:
    """Ask until the time is over; a refusal by policy (429) is waited out, everything else is an error."""
    chance = random.Random(number)
    history: list[dict[str, object]] = []
    while monotonic() < until:
        if len(history) > 8:
            history = []
        history.append({"role": "user", "content": chance.choice(TASKS)})
        body = {
            "model": "nano",
            "messages": history,
            "max_tokens": chance.choice((16, 48, 96)),
            "temperature": 1.0,
            "seed": chance.randrange(1 << 30),
            "stream": True,
            "stream_options": {"include_usage": True},
            "user": f"client-{number}",
        }
        began = monotonic()
        try:
            answer = await _ask(http, url, token, body, began, tally)
        except (httpx.HTTPError, ValueError) as error:
            tally.errors.append(f"{type(error).__name__}: {error}")
            history = []
            continue
        if answer is None:
            history.pop()
            await asyncio.sleep(0.2 + chance.random())
            continue
        history.append({"role": "assistant", "content": answer})


async def _ask(
    http: httpx.AsyncClient, url: str, token: str, body: dict[str, object], began: float, tally: Tally
) -> str | None:
    """The streamed answer; None where the server was full."""
    parts: list[str] = []
    first = None
    headers = {"Authorization": f"Bearer {token}"}
    async with http.stream("POST", f"{url}/chat/completions", json=body, headers=headers) as response:
        tally.statuses[str(response.status_code)] += 1
        if response.status_code == 429:
            await response.aread()
            return None
        response.raise_for_status()
        ended = False
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            data = line.removeprefix("data: ")
            if data == "[DONE]":
                ended = True
                break
            chunk = json.loads(data)
            if "error" in chunk:
                raise ValueError(chunk["error"]["message"])
            if usage := chunk.get("usage"):
                tally.tokens += usage["completion_tokens"]
            for choice in chunk["choices"]:
                delta = choice["delta"]
                text = delta.get("content") or ""
                if first is None and (text or delta.get("reasoning_content")):
                    first = monotonic()
                parts.append(text)
        if not ended:
            raise ValueError("the stream had no end")
    tally.finished += 1
    tally.whole.append(monotonic() - began)
    if first is not None:
        tally.first.append(first - began)
    return "".join(parts)
