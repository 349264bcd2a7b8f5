"""Request bodies: read within the limits, parsed, checked against a model."""

from __future__ import annotations

import asyncio
import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from dsv4_agent.dsml.schema import finite, refuse_constant
from dsv4_agent.server.api_errors import ApiError, bad_request, of_validation
from dsv4_agent.server.limits import Limits

__all__ = ["read_body", "read_json"]

Body = TypeVar("Body", bound=BaseModel)
_ASIDE = 1 << 16
"""Bytes above which parsing leaves the event loop alone."""


async def read_body(request: Request, kind: type[Body], limits: Limits) -> Body:
    """The body as a `kind`. Raises `ApiError`."""
    data = await read_json(request, limits)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise of_validation(error) from None


async def read_json(request: Request, limits: Limits) -> dict[str, Any]:
    """The body as a JSON object. Raises `ApiError`: 413, 408 or 400."""
    raw = await _read(request, limits)
    data = await asyncio.to_thread(_parsed, raw) if len(raw) > _ASIDE else _parsed(raw)
    if not isinstance(data, dict):
        raise bad_request("The request body must be a JSON object.")
    return data


async def _read(request: Request, limits: Limits) -> bytes:
    too_large = ApiError(
        413, f"The request body is larger than {limits.body_bytes:,} bytes.", code="body_too_large"
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limits.body_bytes:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limits.body_bytes:
                    raise too_large
                chunks.append(chunk)
    except TimeoutError:
        raise ApiError(408, "The request body did not arrive in time.", code="body_timeout") from None
    except ClientDisconnect:
        raise bad_request("The request body broke off.") from None
    return b"".join(chunks)


def _parsed(raw: bytes) -> object:
    try:
        return json.loads(raw, parse_constant=refuse_constant, parse_float=finite)
    except (ValueError, RecursionError):
        raise bad_request("The request body is not valid JSON.") from None
