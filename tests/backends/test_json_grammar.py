"""JSON by constraint: whatever is drawn is valid for the schema, and ends."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("llguidance")
from dsv4_agent.backends.json_grammar import ANY_OBJECT, JsonConstraint, JsonSchemaError
from dsv4_model.nano import WEIGHTS
from dsv4_model.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_file(WEIGHTS / "tokenizer.json")
LIMIT = 3_000

scalars = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.fixed_dictionaries(
        {"type": st.just("integer"), "minimum": st.just(0), "maximum": st.integers(1, 999)}
    ),
    st.fixed_dictionaries({"type": st.just("string"), "maxLength": st.integers(0, 8)}),
    st.fixed_dictionaries({"enum": st.lists(st.text(max_size=6), min_size=1, max_size=3, unique=True)}),
)
schemas = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("array"), "items": inner, "maxItems": st.integers(0, 3)},
        ),
        st.dictionaries(st.sampled_from(["a", "b c", "ü", "a}"]), inner, max_size=3).map(
            lambda found: {
                "type": "object",
                "properties": found,
                "required": sorted(found),
                "additionalProperties": False,
            }
        ),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=2)}),
    ),
    max_leaves=5,
)


def drawn(schema: Any, seed: int) -> str | None:
    """A random walk through what is allowed; None when it is long."""
    constraint = JsonConstraint(schema, TOKENIZER)
    chance = random.Random(seed)
    ids: list[int] = []
    while len(ids) < LIMIT:
        allowed = list(constraint.allowed())
        assert allowed
        assert not set(allowed) & (set(TOKENIZER.added_tokens.values()) - {TOKENIZER.eos_id})
        token = int(chance.choice(allowed))
        constraint.accept(token)
        if token == TOKENIZER.eos_id:
            return TOKENIZER.decode(ids)
        ids.append(token)
    return None


@given(schemas, st.integers(0, 99))
@settings(max_examples=60)
def test_every_walk_is_valid(schema: Any, seed: int) -> None:
    text = drawn(schema, seed)
    if text is not None:
        jsonschema.validate(json.loads(text), schema)


def test_any_object_is_one() -> None:
    # Greedy towards closing braces, or a random walk would go on for ever.
    constraint = JsonConstraint(ANY_OBJECT, TOKENIZER)
    ids: list[int] = []
    for _ in range(50):
        allowed = list(constraint.allowed())
        token = TOKENIZER.eos_id if TOKENIZER.eos_id in allowed else int(min(allowed))
        closing = [id for id in allowed if TOKENIZER.token_bytes(int(id)) == b"}"]
        token = int(closing[0]) if closing and token != TOKENIZER.eos_id else token
        constraint.accept(token)
        if token == TOKENIZER.eos_id:
            break
        ids.append(token)
    assert json.loads(TOKENIZER.decode(ids)) == {}


def test_the_end_comes_exactly_with_the_end() -> None:
    constraint = JsonConstraint({"enum": ["x"]}, TOKENIZER)
    for token in TOKENIZER.encode('"x"', False):
        assert TOKENIZER.eos_id not in constraint.allowed()
        constraint.accept(token)
    assert list(constraint.allowed()) == [TOKENIZER.eos_id]


@pytest.mark.parametrize(
    "schema", [{"type": "nonsense"}, {"$ref": "http://example.org/x"}, {"type": "integer", "minimum": "x"}]
)
def test_schemas_that_cannot_be_followed(schema: Any) -> None:
    with pytest.raises(JsonSchemaError) as caught:
        JsonConstraint(schema, TOKENIZER)
    assert "\n" not in str(caught.value)


def test_a_lost_constraint_ends_nothing_quietly() -> None:
    constraint = JsonConstraint({"type": "boolean"}, TOKENIZER)
    constraint.accept(TOKENIZER.encode("{", False)[0])
    with pytest.raises(JsonSchemaError) as caught:
        constraint.allowed()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "maxLength": 10**9},
        {"type": "array", "items": {"type": "integer"}, "minItems": 10**6},
        {"type": "string", "pattern": "((x{1,500}){1,500}){1,500}"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}},
    ],
)
def test_greedy_schemas_are_followed_or_refused(schema: Any) -> None:
    try:
        constraint = JsonConstraint(schema, TOKENIZER)
        for _ in range(20):
            allowed = constraint.allowed()
            assert len(allowed)
            constraint.accept(int(allowed[-1]))
    except JsonSchemaError as error:
        assert "\n" not in str(error)
