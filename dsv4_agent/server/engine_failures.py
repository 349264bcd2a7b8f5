"""What a client is told of an engine's error: the remedy where it is theirs to mend, never a path."""

from __future__ import annotations

import logging

from dsv4_agent.backends.json_grammar import JsonSchemaError
from dsv4_agent.server.api_errors import ApiError, bad_request
from dsv4_agent.server.mistakes import kind_and_place
from dsv4_model.engine import CacheMemoryError, ContextOverflowError, SequenceError
from dsv4_model.sampling import SamplingError

_log = logging.getLogger(__name__)

__all__ = ["out_of_memory", "told"]


def out_of_memory(error: CacheMemoryError) -> ApiError:
    """There is no memory for this turn's KV state; others go on."""
    return ApiError(
        503,
        f"There is no memory for {error.wanted:,} more bytes of KV cache. Shorten the prompt, or try again.",
        kind="server_error",
        code="kv_cache_out_of_memory",
        retry_after=5,
    )


def told(error: Exception) -> ApiError:
    """Any error of the engine as a response."""
    match error:
        case ApiError():
            return error
        case ContextOverflowError():
            return bad_request(str(error), code="context_length_exceeded")
        case SequenceError() | SamplingError():
            return bad_request(str(error))
        case JsonSchemaError():
            return bad_request(f"The schema can't be followed: {error}", "response_format")
        case CacheMemoryError():
            return out_of_memory(error)
    _log.error("a turn failed: %s", kind_and_place(error))
    return ApiError(500, "The model failed.", kind="server_error", code="model_error")
