"""Servers in the test's own event loop: over V4-Nano, over a tiny random model, and over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import httpx
import pytest

pytest.importorskip("torch", reason="the server runs the engine")
pytest.importorskip("starlette", reason="the server needs its packages")

from dsv4_agent.loop.preset import default_preset, nano_preset
from dsv4_agent.server.app import create_app
from dsv4_agent.server.engine_source import EngineSource
from dsv4_agent.server.guard import GuardRules
from dsv4_agent.server.limits import Limits
from dsv4_agent.server.service import Service
from dsv4_agent.server.serving import Server, listen
from dsv4_model.engine import Engine
from tests.model import tiny

NO_RULES = GuardRules()
LIMITS = Limits()


@cache
def nano_engine() -> Engine:
    """V4-Nano, loaded once: timelines come and go with each server."""
    return Engine.load("nano")


@dataclass
class Served:
    """A server and a client of it."""

    http: httpx.AsyncClient
    source: EngineSource
    service: Service

    async def complete(self, **body: Any) -> dict[str, Any]:
        response = await self.http.post("/v1/completions", json=body)
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def chat(self, **body: Any) -> dict[str, Any]:
        response = await self.http.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that the engine's thread will bring about within some steps."""
        for _ in range(10_000):
            if await asyncio.wrap_future(self.source.on_engine(condition)):
                return
        raise AssertionError("it never came about")


@asynccontextmanager
async def serving(
    engine: Engine,
    limits: Limits = LIMITS,
    rules: GuardRules = NO_RULES,
    *,
    sockets: bool = False,
    patience: float = 1.0,
) -> AsyncIterator[Served]:
    """A server over `engine`; with `sockets` a real one on loopback."""
    preset = nano_preset() if engine.name == "nano" else replace(default_preset(), temperature=0.0)
    source = EngineSource(engine, preset, limits)
    service = Service(source, limits)
    app = create_app(service, rules)
    if not sockets:
        transport = httpx.ASGITransport(app)
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
                yield Served(http, source, service)
        finally:
            await source.close(0)
        return
    listener, address = listen("127.0.0.1", 0)
    ready = asyncio.Event()
    server = Server(app, limits, ready.set, patience, source.close)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await ready.wait()
        base = address.url.removesuffix("/v1")
        async with httpx.AsyncClient(base_url=base, timeout=30, trust_env=False) as http:
            yield Served(http, source, service)
    finally:
        server.should_exit = True
        await task


@pytest.fixture
async def nano() -> AsyncIterator[Served]:
    """V4-Nano behind the application."""
    async with serving(nano_engine()) as served:
        yield served


@pytest.fixture
async def small() -> AsyncIterator[Served]:
    """A tiny random model, whose answers never end by themselves, behind the application."""
    async with serving(tiny.engine()) as served:
        yield served
