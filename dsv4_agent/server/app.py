"""The ASGI application: routes, errors, and the guard in front of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dsv4_agent.server.api_errors import ApiError, error_response
from dsv4_agent.server.chat_completions import chat_completions
from dsv4_agent.server.completions import completions
from dsv4_agent.server.guard import Guard, GuardRules
from dsv4_agent.server.ledger import kv
from dsv4_agent.server.messages import count_tokens, messages
from dsv4_agent.server.metrics import Measured, Meters, metrics
from dsv4_agent.server.models_endpoint import health, model, models
from dsv4_agent.server.responses import responses
from dsv4_agent.server.service import Service
from dsv4_agent.server.streaming import ClientGoneError
from dsv4_agent.server.tokenize import detokenize, tokenize

__all__ = ["create_app"]


def create_app(
    service: Service, rules: GuardRules, more: Sequence[BaseRoute] = (), *, patience: float = 0.0
) -> Starlette:
    """The application over one service, which handlers find in `request.app.state.service`.

    When it ends, running turns get `patience` seconds and the source of turns is closed.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await service.source.close(patience)

    routes = [
        Route("/health", health, methods=["GET"]),
        Route("/v1/models", models, methods=["GET"]),
        Route("/v1/models/{name:path}", model, methods=["GET"]),
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
        Route("/v1/responses", responses, methods=["POST"]),
        Route("/v1/messages", messages, methods=["POST"]),
        Route("/v1/messages/count_tokens", count_tokens, methods=["POST"]),
        Route("/tokenize", tokenize, methods=["POST"]),
        Route("/detokenize", detokenize, methods=["POST"]),
        Route("/metrics", metrics, methods=["GET"]),
        Route("/kv", kv, methods=["GET"]),
        *more,
    ]
    meters = Meters(service)
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(Measured, meters=meters),
            Middleware(Guard, rules=rules),
            *_for_pages(rules),
        ],
        exception_handlers={
            ApiError: _api_error,
            ClientGoneError: _nobody,
            HTTPException: _http_error,
        },
        lifespan=lifespan,
    )
    app.state.service = service
    app.state.meters = meters
    return app


def _for_pages(rules: GuardRules) -> list[Middleware]:
    """What lets pages of the allowed origins read answers; without such there is nothing of the kind."""
    if not rules.origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=sorted(rules.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # the official clients send a dozen of their own
        )
    ]


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error, request.url.path)


async def _nobody(_: Request, error: Exception) -> Response:
    """Nobody is there to read it; the status is the usual one for that in logs."""
    return Response(status_code=499)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = "method_not_allowed" if error.status_code == 405 else "not_found"
    told = ApiError(error.status_code, f"{error.detail}.", code=code)
    response = error_response(told, request.url.path)
    response.headers.update(error.headers or {})
    return response
