"""`response_format`: a constraint for a JSON schema, its errors as the API's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsv4_agent.backends.json_grammar import JsonConstraint, JsonSchemaError, JsonVocabulary
from dsv4_agent.server.api_errors import bad_request

__all__ = ["json_constraint"]


def json_constraint(schema: Mapping[str, Any], vocabulary: JsonVocabulary) -> JsonConstraint:
    """A constraint that lets only JSON of the schema through. Raises `ApiError` (400)."""
    try:
        return JsonConstraint(schema, vocabulary)
    except JsonSchemaError as error:
        raise bad_request(f"The schema can't be followed: {error}", "response_format") from error
