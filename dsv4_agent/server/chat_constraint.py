"""What a chat turn may sample: declared calls only, a call in any case, or JSON of a given schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dsv4_agent.backends.json_grammar import ANY_OBJECT
from dsv4_agent.backends.turn_constraint import AfterThinking, AnswerOrCalls, calls_constraint, opening_of
from dsv4_agent.dsml.dialect import GrammarMode
from dsv4_agent.dsml.grammar import DsmlConstraint
from dsv4_agent.server.api_errors import bad_request
from dsv4_agent.server.chat_request import ChatRequest, ChoiceKind
from dsv4_agent.server.turns import ServedModel

if TYPE_CHECKING:
    from dsv4_model.generation import Constraint

__all__ = ["chat_constraint"]


def chat_constraint(
    request: ChatRequest, model: ServedModel, opener: Sequence[int], *, thinks: bool
) -> Constraint | None:
    """The constraint of one turn; `opener` are the ids with which the prompt has opened a block already.

    Raises `ApiError` for a schema that can't be followed.
    """
    required = request.choice.kind is ChoiceKind.REQUIRED
    calls = _calls_constraint(request, model, opener)
    if required or (request.response_format or {}).get("type", "text") == "text":
        return calls
    wanted = _json_constraint(request, model)
    opening = opening_of(model.codec, model.dialect)
    constraint = wanted if calls is None else AnswerOrCalls(wanted, calls, opening)
    return AfterThinking(constraint, model.codec) if thinks else constraint


def _calls_constraint(
    request: ChatRequest, model: ServedModel, opener: Sequence[int]
) -> DsmlConstraint | None:
    mode = GrammarMode.ON if request.choice.kind is ChoiceKind.REQUIRED else request.grammar
    constraint = calls_constraint(
        request.callable,
        model.codec,
        model.dialect,
        mode,
        single=not request.choice.parallel,
        typed=frozenset(tool["name"] for tool in request.callable if _typed(tool, request)),
    )
    if constraint is None:
        return None
    for token in opener:
        constraint.accept(token)
    constraint.counted = 0
    return constraint


def _typed(tool: Mapping[str, Any], request: ChatRequest) -> bool:
    """Whether a tool's JSON values are held to their schemas: where the client asks for it, or for a call."""
    return tool.get("strict") is True or request.choice.kind is ChoiceKind.REQUIRED


def _json_constraint(request: ChatRequest, model: ServedModel) -> Constraint:
    from dsv4_agent.server.json_schema import json_constraint

    match request.response_format:
        case {"type": "json_object"}:
            return json_constraint(ANY_OBJECT, model.codec)
        case {"type": "json_schema", "json_schema": {"schema": dict() as schema}}:
            return json_constraint(schema, model.codec)
        case {"type": "json_schema"}:
            raise bad_request("json_schema needs a schema.", "response_format.json_schema.schema")
    raise bad_request("The type must be text, json_object or json_schema.", "response_format.type")
