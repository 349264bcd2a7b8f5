"""`/tokenize` and `/detokenize`, in the forms of vLLM (`prompt`) and of llama.cpp (`content`)."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from dsv4_agent.server.api_errors import Json, bad_request
from dsv4_agent.server.bodies import read_body
from dsv4_agent.server.service import Service

__all__ = ["detokenize", "tokenize"]

_STRICT = ConfigDict(extra="ignore", strict=True, frozen=True)


class _TokenizeBody(BaseModel):
    model_config = _STRICT
    prompt: str | None = None
    content: str | None = None
    parse_special: bool | None = None
    add_special: bool | None = None
    add_special_tokens: bool | None = None


class _DetokenizeBody(BaseModel):
    model_config = _STRICT
    tokens: list[int]


async def tokenize(request: Request) -> Response:
    """Answer `POST /tokenize`. Nothing is added to a text; special tokens are recognised unless refused."""
    service: Service = request.app.state.service
    body = await read_body(request, _TokenizeBody, service.limits)
    text = body.prompt if body.prompt is not None else body.content
    if text is None:
        raise bad_request("Give the text as prompt or as content.", "prompt")
    codec = service.model.codec
    ids = await asyncio.to_thread(codec.encode, text, body.parse_special is not False)
    return Json({"tokens": ids, "count": len(ids), "max_model_len": service.model.context_window})


async def detokenize(request: Request) -> Response:
    """Answer `POST /detokenize`."""
    service: Service = request.app.state.service
    body = await read_body(request, _DetokenizeBody, service.limits)
    codec = service.model.codec
    wrong = next((token for token in body.tokens if not 0 <= token < codec.size), None)
    if wrong is not None:
        raise bad_request(f"Token id {wrong} is outside the vocabulary of {codec.size}.", "tokens")
    text = await asyncio.to_thread(codec.decode, body.tokens)
    return Json({"prompt": text, "content": text})
