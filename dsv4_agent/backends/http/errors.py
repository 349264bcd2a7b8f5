"""What can go wrong with a server, in one line each: the cause, then the remedy."""

from __future__ import annotations

import email.utils
import json
import math
import re
import time
from collections.abc import Mapping

from dsv4_agent.backends.base import ModelError

_RETRYABLE = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
_STATUS = re.compile(r"[1-5][0-9]{2}")
_OUR_FAULT = frozenset({"invalid_request_error", "BadRequestError", "context_length_exceeded"})
"""Types and codes of error objects that the same request would meet again."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]+")
_TAG = re.compile(r"<[^>]{0,200}>")
_SHOWN = 300


class ServerError(ModelError):
    """A request failed. `reason` is a short name for events; `retry_after` are seconds that it asked for."""

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        status: int | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
        unreachable: bool = False,
    ) -> None:
        super().__init__(message, unreachable=unreachable)
        self.reason = reason
        self.status = status
        self.retryable = retryable
        self.retry_after = retry_after


class BrokenStreamError(ServerError):
    """An answer ended in the middle."""

    def __init__(self, message: str, *, reason: str = "stream_broken") -> None:
        super().__init__(message, reason=reason, retryable=True, unreachable=True)


def of_status(where: str, status: int, headers: Mapping[str, str], body: bytes) -> ServerError:
    """The error of an answer other than 200. `where` names the server."""
    said = words_of(body)
    says = f": {said}" if said else ""
    reason = f"server_{status}"
    match status:
        case 401 | 403:
            message = (
                f"{where} refuses the key ({status}){says}; set the variable that the profile names, or run "
                "dsv4 model add NAME URL --key-stdin"
            )
            return ServerError(message, reason=reason, status=status, unreachable=True)
        case 402:
            message = f"{where} wants payment ({status}){says}; top up the account"
            return ServerError(message, reason=reason, status=status, unreachable=True)
        case 404 | 405:
            message = f"{where} knows no such model or path ({status}){says}; check model and base_url"
            return ServerError(message, reason=reason, status=status)
        case 413:
            return ServerError(
                f"{where} finds the request too large ({status}){says}; use /compact or a larger context",
                reason=reason,
                status=status,
            )
        case _ if 300 <= status < 400:
            target = clean(headers.get("location", "elsewhere"))
            message = f"{where} points to {target} ({status}), which is not followed; set that as base_url"
            return ServerError(message, reason=reason, status=status)
        case _ if status in _RETRYABLE or status >= 500:
            asked = _retry_after(headers)
            when = f"in {asked:.0f} s" if asked and math.isfinite(asked) else "later"
            return ServerError(
                f"{where} can't answer now ({status}){says}; try again {when}",
                reason=reason,
                status=status,
                retryable=True,
                retry_after=asked,
                unreachable=True,
            )
    message = f"{where} refuses the request ({status}){says}; see dsv4 doctor"
    return ServerError(message, reason=reason, status=status)


def of_object(where: str, error: object) -> ServerError:
    """The error of an `error` object inside a stream that began well."""
    fields = error if isinstance(error, Mapping) else {"message": error}
    said = clean(str(fields.get("message") or fields.get("type") or "no reason given"))
    status = _status_of(fields)
    retryable = status is None or status in _RETRYABLE or status >= 500
    message = f"{where} broke its answer off: {said}; see the server's log"
    return ServerError(message, reason="server_error", status=status, retryable=retryable)


def _status_of(fields: Mapping[object, object]) -> int | None:
    """The HTTP status that an error object stands for: its code (LiteLLM writes it as text), or its type."""
    for code in (fields.get("code"), fields.get("status")):
        if isinstance(code, int) and not isinstance(code, bool):
            return code
        if isinstance(code, str) and _STATUS.fullmatch(code):
            return int(code)
    names = {str(fields.get("type")), str(fields.get("code"))}
    return 400 if names & _OUR_FAULT else None


def words_of(body: bytes) -> str:
    """What the body of an error says, whatever its form: OpenAI's, FastAPI's, HTML or plain text."""
    text = body.decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return clean(_TAG.sub(" ", text))
    for _ in range(3):
        match value:
            case {"loc": [*place], "msg": str(said)}:
                value = f"{'.'.join(map(str, place))}: {said}"
            case {"error": inner} | {"detail": inner} | {"message": inner} | {"msg": inner}:
                value = inner
            case [first, *_]:
                value = first
    return clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def clean(text: str) -> str:
    """Foreign text as a short harmless line."""
    line = " ".join(_CONTROL.sub(" ", text).split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from now of a Retry-After header: a number or a date."""
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        when = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, when.timestamp() - time.time())
