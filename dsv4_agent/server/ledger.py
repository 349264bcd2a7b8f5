"""`/kv`: the KV states that the server holds, by timeline and kind; of what they say, nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dsv4_agent.server.api_errors import ApiError, Json
from dsv4_agent.server.engine_source import EngineSource
from dsv4_agent.server.scheduler import Scheduler
from dsv4_agent.server.service import Service

__all__ = ["kv"]

_WAIT = 5.0  # seconds


async def kv(request: Request) -> Response:
    """Answer `GET /kv`."""
    service: Service = request.app.state.service
    source = service.source
    if not isinstance(source, EngineSource):
        raise ApiError(404, "This model has no KV states here.", code="not_found")
    scheduler = source.scheduler
    asked = asyncio.wrap_future(source.on_engine(lambda: _ledger(scheduler)))
    try:
        return Json(await asyncio.wait_for(asked, _WAIT))
    except TimeoutError:
        raise ApiError(503, "The engine is busy. Try again.", code="busy", retry_after=1) from None


def _ledger(scheduler: Scheduler) -> dict[str, Any]:
    """What is held, on the engine's thread."""
    timelines = scheduler.timelines()
    kinds: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    for sequence, running in timelines:
        usage = dict(sequence.usage())
        for kind, size in usage.items():
            kinds[kind] = kinds.get(kind, 0) + size
        rows.append(
            {
                "running": running,
                "tokens": len(sequence.tokens),
                "computed": sequence.position,
                "boundaries": len(sequence.boundaries),
                "bytes": sum(usage.values()),
                "bytes_by_kind": usage,
            }
        )
    alone = sum(kinds.values())
    held = scheduler.held_bytes()
    return {
        "object": "kv",
        "bytes": held,
        "bytes_limit_idle": scheduler.limits.idle_bytes,
        "bytes_without_sharing": alone,
        "bytes_by_kind": kinds,
        "running": sum(running for _, running in timelines),
        "idle": sum(not running for _, running in timelines),
        "timelines": rows,
    }
