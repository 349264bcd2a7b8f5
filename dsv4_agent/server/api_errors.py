"""Errors as OpenAI's clients know them (a message, a type, the field, a code), and as Anthropic's do."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError
from starlette.responses import JSONResponse

__all__ = ["ApiError", "Json", "bad_request", "error_response", "of_validation"]

_MESSAGES = "/v1/messages"
_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class Json(JSONResponse):
    """A JSON response in ASCII: whatever a model or a client has written, it can be encoded."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode()


class ApiError(Exception):
    """What a client is told. The message is one line, the cause and the remedy, and names no path.

    `retry_after` is in seconds.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """The JSON object that goes to the client."""
        return {
            "error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code},
        }

    def anthropic_body(self) -> dict[str, Any]:
        """The same for Anthropic's clients."""
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": str(self)}}


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that can't be served as it is."""
    return ApiError(400, message, param=param, code=code)


def error_response(error: ApiError, path: str) -> Json:
    """The HTTP response to an error, in the shape of the API that the request's path belongs to."""
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    anthropic = path == _MESSAGES or path.startswith(f"{_MESSAGES}/")
    return Json(error.anthropic_body() if anthropic else error.body(), error.status, headers)


def of_validation(error: ValidationError, *place: str | int) -> ApiError:
    """The first problem of a body, with the field's name and without what was sent.

    `place` is where in the body what was checked lies, if that wasn't the whole.
    """
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    steps = [str(step) for step in (*place, *problem["loc"]) if not _is_branch(step)]
    field = ".".join(steps)
    where = f"'{field}': " if field else ""
    return bad_request(f"Invalid request: {where}{problem['msg']}.", field or None, "invalid_value")


def _is_branch(step: object) -> bool:
    """Whether a step of a location names a member of a union, not a field."""
    return isinstance(step, str) and (not step.isidentifier() or step in _TYPES)


_TYPES = frozenset({"str", "int", "float", "bool", "list", "dict", "tuple"})
