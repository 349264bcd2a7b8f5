"""`/kv`: the KV states that the server holds, by timeline and kind; of what they say, nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dsv4_agent.server.api_errors import ApiError, Json
from dsv4_agent.server.engine_source import EngineSource
from dsv4_agent.server.kv_holdings import shared_bytes
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
    """What is held, on the engine's thread.

    The bytes of all together count shared pages once, those of a timeline in full; `bytes_shared` of the
    latter are the pages that other timelines hold as well, which is what common beginnings save.
    """
    timelines = scheduler.timelines()
    shared = shared_bytes([sequence for sequence, _ in timelines])
    rows = []
    for (sequence, running), common in zip(timelines, shared, strict=True):
        usage = dict(sequence.usage())
        rows.append(
            {
                "running": running,
                "tokens": len(sequence.tokens),
                "computed": sequence.position,
                "boundaries": len(sequence.boundaries),
                "bytes": sum(usage.values()),
                "bytes_shared": common,
                "bytes_by_kind": usage,
            }
        )
    held = scheduler.holdings()
    return {
        "object": "kv",
        "bytes": held.nbytes,
        "bytes_by_kind": dict(held.by_kind),
        "bytes_limit_idle": scheduler.limits.idle_bytes,
        "running": sum(running for _, running in timelines),
        "idle": sum(not running for _, running in timelines),
        "waiting": scheduler.waiting,
        "timelines": rows,
    }
