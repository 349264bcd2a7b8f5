"""What a chat turn may sample: declared calls only, a call in any case, or JSON of a given schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dsv4_agent.dsml.dialect import DSML, END_THINK, GrammarMode
from dsv4_agent.dsml.grammar import DsmlConstraint
from dsv4_agent.dsml.schema import ToolSchema
from dsv4_agent.server.api_errors import bad_request
from dsv4_agent.server.chat_render import calls_opener
from dsv4_agent.server.chat_request import ChatRequest, ChoiceKind
from dsv4_agent.server.turns import ServedModel

if TYPE_CHECKING:
    from dsv4_model.generation import Constraint
    from dsv4_model.sampling import Allowed

__all__ = ["chat_constraint"]

_ANY_OBJECT = {"type": "object"}


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
    constraint = wanted if calls is None else _JsonOrCalls(wanted, calls, _opening(model))
    return _AfterThinking(constraint, model) if thinks else constraint


def _calls_constraint(
    request: ChatRequest, model: ServedModel, opener: Sequence[int]
) -> DsmlConstraint | None:
    mode = GrammarMode.ON if request.choice.kind is ChoiceKind.REQUIRED else request.grammar
    if not request.callable or mode is GrammarMode.OFF:
        return None
    schemas = {schema.name: schema for schema in map(ToolSchema.from_function, request.callable)}
    constraint = DsmlConstraint(schemas, model.codec, model.dialect, mode, single=not request.choice.parallel)
    for token in opener:
        constraint.accept(token)
    constraint.counted = 0
    return constraint


def _opening(model: ServedModel) -> list[int]:
    """The ids that say that a block of calls begins, its marker last."""
    ids = model.codec.encode(calls_opener(model.dialect), True)
    marker = model.codec.id_of(DSML)
    return ids if marker is None else ids[: ids.index(marker) + 1]


def _json_constraint(request: ChatRequest, model: ServedModel) -> Constraint:
    from dsv4_agent.server.json_schema import json_constraint

    match request.response_format:
        case {"type": "json_object"}:
            return json_constraint(_ANY_OBJECT, model.codec)
        case {"type": "json_schema", "json_schema": {"schema": dict() as schema}}:
            return json_constraint(schema, model.codec)
        case {"type": "json_schema"}:
            raise bad_request("json_schema needs a schema.", "response_format.json_schema.schema")
    raise bad_request("The type must be text, json_object or json_schema.", "response_format.type")


class _JsonOrCalls:
    """An answer is JSON, or it is calls and nothing before them: the first token decides."""

    def __init__(self, json: Constraint, calls: Constraint, opening: Sequence[int]) -> None:
        self._json, self._calls, self._opening = json, calls, opening
        self._chosen: Constraint | None = None
        self._at = 0

    def allowed(self) -> Allowed | None:
        if self._chosen is not None:
            return self._chosen.allowed()
        if self._at:
            return [self._opening[self._at]]
        allowed = self._json.allowed()
        return None if allowed is None else [*map(int, allowed), self._opening[0]]

    def accept(self, token_id: int) -> None:
        if self._chosen is not None:
            self._chosen.accept(token_id)
        elif self._at or token_id == self._opening[0]:
            self._calls.accept(token_id)
            self._at += 1
            self._chosen = self._calls if self._at == len(self._opening) else None
        else:
            self._chosen = self._json
            self._json.accept(token_id)


class _AfterThinking:
    """Leaves the thought alone and holds from `</think>` on."""

    def __init__(self, constraint: Constraint, model: ServedModel) -> None:
        self._constraint = constraint
        self._end_think = model.codec.id_of(END_THINK)
        self._thinking = True

    def allowed(self) -> Allowed | None:
        return None if self._thinking else self._constraint.allowed()

    def accept(self, token_id: int) -> None:
        if self._thinking:
            self._thinking = token_id != self._end_think
        else:
            self._constraint.accept(token_id)
