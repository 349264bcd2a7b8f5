"""What one turn may sample: declared calls, and where a schema is given, calls or an answer of that schema.

With a schema a turn is its thought, then either a block of calls and nothing before it, or the JSON alone:
the first token behind the thought decides. Words before calls are thereby left out of such runs; they could
not be told from an answer that is no JSON until it is too late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dsv4_agent.backends.json_grammar import JsonConstraint, JsonSchemaError, JsonValue, JsonVocabulary
from dsv4_agent.dsml.dialect import DSML, END_THINK, THINK, Dialect, GrammarMode, tags_of
from dsv4_agent.dsml.grammar import DsmlConstraint
from dsv4_agent.dsml.schema import ToolSchema
from dsv4_agent.dsml.vocabulary import Vocabulary

if TYPE_CHECKING:
    from dsv4_model.generation import Constraint
    from dsv4_model.sampling import Allowed


@dataclass(frozen=True, slots=True)
class TurnConstraint:
    """The constraint of one turn, None where anything goes.

    `calls` is its part that counts the tokens of calls; `problem` is one line that says why the answer's
    schema isn't held to.
    """

    constraint: Constraint | None
    calls: DsmlConstraint | None
    problem: str | None = None


def turn_constraint(
    tools: Sequence[Mapping[str, Any]],
    grammar: GrammarMode,
    answer_schema: Mapping[str, Any] | None,
    prompt: Sequence[int],
    vocabulary: JsonVocabulary,
    dialect: Dialect,
    *,
    continues: int = 0,
) -> TurnConstraint:
    """The constraint of a turn behind `prompt`; a schema counts where the grammar is on.

    The last `continues` ids of the prompt were sampled in this very turn, before a connection broke.
    """
    begun = len(prompt) - continues
    calls = calls_constraint(tools, vocabulary, dialect, grammar)
    constraint: Constraint | None = calls
    problem = None
    if answer_schema is not None and grammar is GrammarMode.ON:
        try:
            answer = JsonConstraint(answer_schema, vocabulary)
        except JsonSchemaError as error:
            problem = f"the answer is checked, but not held to its schema: {error}"
        else:
            opening = opening_of(vocabulary, dialect)
            constraint = answer if calls is None else AnswerOrCalls(answer, calls, opening)
            if thought_is_open(prompt[:begun], vocabulary):
                constraint = AfterThinking(constraint, vocabulary)
    if constraint is not None:
        for token in prompt[begun:]:
            constraint.accept(token)
    if calls is not None:
        calls.counted = 0
    return TurnConstraint(constraint, calls, problem)


def calls_constraint(
    tools: Sequence[Mapping[str, Any]],
    vocabulary: JsonVocabulary,
    dialect: Dialect,
    grammar: GrammarMode = GrammarMode.ON,
    *,
    single: bool = False,
    typed: frozenset[str] = frozenset(),
) -> DsmlConstraint | None:
    """The grammar of tool calls: only declared tools and parameters, values free but for `typed` tools.

    JSON values of these keep to their schemas, as far as llguidance is installed and understands them.
    """
    if not tools or grammar is GrammarMode.OFF:
        return None
    schemas = {schema.name: schema for schema in map(ToolSchema.from_function, tools)}
    if not typed:
        return DsmlConstraint(schemas, vocabulary, dialect, grammar, single=single)

    def value(tool: str, key: str) -> JsonValue | None:
        try:
            return JsonValue(_schema_of(schemas[tool], key), vocabulary)
        except (JsonSchemaError, ImportError):
            return None

    return DsmlConstraint(schemas, vocabulary, dialect, grammar, single=single, typed=typed, values=value)


def _schema_of(tool: ToolSchema, key: str) -> dict[str, Any]:
    """A parameter's schema that stands alone: what it refers to comes along."""
    declared = tool.properties[key]
    own = dict(declared) if isinstance(declared, Mapping) else {}
    shared = {name: tool.parameters[name] for name in ("$defs", "definitions") if name in tool.parameters}
    return {**shared, **own}


def calls_opener(dialect: Dialect) -> str:
    """What opens a block of calls."""
    return f"\n\n<{tags_of(dialect).calls}>\n"


def opening_of(vocabulary: JsonVocabulary, dialect: Dialect) -> list[int]:
    """The ids that say that a block of calls begins, its marker last."""
    ids = list(vocabulary.encode(calls_opener(dialect), True))
    marker = vocabulary.id_of(DSML)
    return ids if marker is None else ids[: ids.index(marker) + 1]


def thought_is_open(prompt: Sequence[int], vocabulary: Vocabulary) -> bool:
    """Whether the last of the two markers opens a thought."""
    think, end = vocabulary.id_of(THINK), vocabulary.id_of(END_THINK)
    return next((token == think for token in reversed(prompt) if token in (think, end)), False)


class AnswerOrCalls:
    """An answer keeps to its constraint, or it is calls and nothing before them: the first token decides."""

    def __init__(self, answer: Constraint, calls: Constraint, opening: Sequence[int]) -> None:
        self._answer, self._calls, self._opening = answer, calls, opening
        self._chosen: Constraint | None = None
        self._at = 0

    def allowed(self) -> Allowed | None:
        """The ids that may come next."""
        if self._chosen is not None:
            return self._chosen.allowed()
        if self._at:
            return [self._opening[self._at]]
        allowed = self._answer.allowed()
        return None if allowed is None else [*map(int, allowed), self._opening[0]]

    def accept(self, token_id: int) -> None:
        """The id that came."""
        if self._chosen is not None:
            self._chosen.accept(token_id)
        elif self._at or token_id == self._opening[0]:
            self._calls.accept(token_id)
            self._at += 1
            self._chosen = self._calls if self._at == len(self._opening) else None
        else:
            self._chosen = self._answer
            self._answer.accept(token_id)


class AfterThinking:
    """Leaves the thought alone and holds from `</think>` on."""

    def __init__(self, constraint: Constraint, vocabulary: Vocabulary) -> None:
        self._constraint = constraint
        self._end_think = vocabulary.id_of(END_THINK)
        self._thinking = True

    def allowed(self) -> Allowed | None:
        """The ids that may come next; None while the model thinks."""
        return None if self._thinking else self._constraint.allowed()

    def accept(self, token_id: int) -> None:
        """The id that came."""
        if self._thinking:
            self._thinking = token_id != self._end_think
        else:
            self._constraint.accept(token_id)
