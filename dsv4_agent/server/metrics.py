"""`/metrics`: what Prometheus collects of a server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING, Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dsv4_agent.server.service import Service
from dsv4_agent.server.turn_times import TurnTimes

if TYPE_CHECKING:
    from dsv4_agent.server.engine_source import EngineSource
    from dsv4_agent.server.kv_holdings import Holdings
    from dsv4_agent.server.scheduler import Scheduler

__all__ = ["Measured", "Meters", "metrics"]

_RATES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_WAIT: Final = 2.0  # seconds that a busy engine may let a collector wait


class Meters:
    """The meters of one server, apart from those of any other in the process."""

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "dsv4_requests", "Requests answered.", ("endpoint", "status"), registry=self.registry
        )
        self.first_byte = Histogram(
            "dsv4_time_to_first_byte_seconds",
            "From the request to the first byte of the answer's body.",
            ("endpoint",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.duration = Histogram(
            "dsv4_request_seconds", "Whole requests.", ("endpoint",), buckets=_SECONDS, registry=self.registry
        )
        self.waited = Histogram(
            "dsv4_turn_wait_seconds",
            "From a turn's request to its place among the running ones.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "dsv4_time_to_first_token_seconds",
            "From a turn's request to its first sampled token.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.rate = Histogram(
            "dsv4_turn_tokens_per_second",
            "Sampled tokens a second of a turn, behind its first.",
            buckets=_RATES,
            registry=self.registry,
        )
        self.registry.register(_Engine(service))
        service.watchers.append(self._turn_over)

    def _turn_over(self, times: TurnTimes) -> None:
        for meter, value in (
            (self.waited, times.waited),
            (self.first_token, times.first_token),
            (self.rate, times.rate),
        ):
            if value is not None:
                meter.observe(value)


class Measured:
    """ASGI middleware that counts and times requests by route, never by what a client sends."""

    def __init__(self, app: ASGIApp, meters: Meters) -> None:
        self._app = app
        self._meters = meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, first = monotonic(), "aborted", True

        async def sending(message: Message) -> None:
            nonlocal status, first
            if message["type"] == "http.response.start":
                status = str(message["status"])
            elif first and message.get("body"):
                first = False
                self._meters.first_byte.labels(_endpoint(scope)).observe(monotonic() - began)
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            endpoint = _endpoint(scope)
            self._meters.requests.labels(endpoint, status).inc()
            self._meters.duration.labels(endpoint).observe(monotonic() - began)


async def metrics(request: Request) -> Response:
    """Answer `GET /metrics`."""
    meters: Meters = request.app.state.meters
    text = await asyncio.to_thread(generate_latest, meters.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def _endpoint(scope: Scope) -> str:
    route = scope.get("route")
    return str(getattr(route, "path", "none"))


class _Engine(Collector):
    """What the engine's thread counts; read when Prometheus asks."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        source = _engine_of(self._service)
        if source is None:
            return
        scheduler = source.scheduler
        counts = scheduler.counts
        turns = CounterMetricFamily("dsv4_turns", "Turns by how they ended.", labels=["outcome"])
        for outcome in ("finished", "cancelled", "failed", "refused"):
            turns.add_metric([outcome], getattr(counts, outcome))
        yield turns
        tokens = CounterMetricFamily("dsv4_tokens", "Tokens by what became of them.", labels=["kind"])
        computed = counts.prompt_tokens - counts.reused_tokens
        for kind, count in (
            ("prompt_computed", computed),
            ("prompt_reused", counts.reused_tokens),
            ("sampled", counts.sampled_tokens),
        ):
            tokens.add_metric([kind], count)
        yield tokens
        yield CounterMetricFamily("dsv4_steps", "Passes of the engine.", value=counts.steps)
        yield GaugeMetricFamily("dsv4_turns_waiting", "Turns without a place.", value=scheduler.waiting)
        yield GaugeMetricFamily("dsv4_turns_running", "Turns being computed.", value=scheduler.running)
        try:
            held, timelines = source.on_engine(lambda: _kv(scheduler)).result(_WAIT)
        except TimeoutError:
            return
        size = GaugeMetricFamily("dsv4_kv_bytes", "Bytes of all KV states by kind.", labels=["kind"])
        for kind, nbytes in held.by_kind.items():
            size.add_metric([kind], nbytes)
        yield size
        states = GaugeMetricFamily("dsv4_kv_timelines", "KV states that are held.", labels=["state"])
        for state, count in timelines.items():
            states.add_metric([state], count)
        yield states


def _kv(scheduler: Scheduler) -> tuple[Holdings, dict[str, int]]:
    """On the engine's thread: what is held, and by how many."""
    running = [running for _, running in scheduler.timelines()]
    counts = {"running": running.count(True), "idle": running.count(False)}
    return scheduler.holdings(), counts


def _engine_of(service: Service) -> EngineSource | None:
    """The source, if it is an engine of this process."""
    from dsv4_agent.server.engine_source import EngineSource

    return service.source if isinstance(service.source, EngineSource) else None
