"""`/v1/models` and `/health`."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dsv4_agent.server.api_errors import ApiError, Json
from dsv4_agent.server.service import Service
from dsv4_agent.version import __version__

__all__ = ["health", "model", "models"]


async def models(request: Request) -> Response:
    """The one model that is served."""
    return Json({"object": "list", "data": [_described(request.app.state.service)]})


async def model(request: Request) -> Response:
    """The same by its name."""
    service: Service = request.app.state.service
    if request.path_params["name"] != service.model.name:
        message = f"There is no such model; this server has {service.model.name}."
        raise ApiError(404, message, param="model", code="model_not_found")
    return Json(_described(service))


async def health(request: Request) -> Response:
    """That someone is there; needs no token."""
    return Json({"status": "ok"})


def _described(service: Service) -> dict[str, Any]:
    served = service.model
    return {
        "id": served.name,
        "object": "model",
        "created": service.started,
        "owned_by": "dsv4",
        "max_model_len": served.context_window,
        "dsv4": {
            "version": __version__,
            "preset": served.preset.name,
            "dialect": served.dialect.value,
            "encoder": served.encoder.value,
            "tokenizer": served.codec.fingerprint,
            "vocabulary": served.codec.size,
            "thinking": served.preset.thinking.value,
        },
    }
