"""Turns held to a schema or to declared calls: on random weights, whatever is sampled is one of the two."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="the engine samples here")
pytest.importorskip("llguidance", reason="JSON schemas need it")

from dsv4_agent.backends.turn_constraint import (
    calls_constraint,
    calls_opener,
    thought_is_open,
    turn_constraint,
)
from dsv4_agent.dsml.dialect import Dialect, GrammarMode
from dsv4_agent.dsml.events import FinishReason, ParsedMessage
from dsv4_agent.dsml.parse import StreamParser
from dsv4_agent.dsml.schema import ToolSchema
from dsv4_model.engine import Engine
from dsv4_model.sampling import SamplingParams
from tests.model import tiny

ENGINE: Engine = tiny.engine()
TOKENIZER = ENGINE.tokenizer
READ = {
    "name": "read",
    "description": "Read a file.",
    "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
}
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["a", "b"]}},
    "required": ["ok", "kind"],
    "additionalProperties": False,
}
THINKING = "<｜User｜>x<｜Assistant｜><think>"
CHAT = "<｜User｜>x<｜Assistant｜></think>"


def sampled(
    prompt: str,
    *,
    schema: Mapping[str, Any] | None = SCHEMA,
    tools: Sequence[Mapping[str, Any]] = (READ,),
    seed: int = 0,
    most: int = 400,
    thinking_budget: int | None = None,
    forced: Sequence[int] = (),
    temperature: float = 1.0,
) -> list[int]:
    """What random weights sample under the constraint; `forced` ids come first."""
    ids = [*TOKENIZER.encode(prompt, True), *forced]
    held = turn_constraint(tools, GrammarMode.ON, schema, ids, TOKENIZER, Dialect.V4, continues=len(forced))
    assert held.problem is None
    sequence = ENGINE.sequence()
    sequence.sync(ids)
    params = SamplingParams(
        temperature=temperature, seed=seed, max_tokens=most, thinking_budget=thinking_budget
    )
    return [*forced, *sequence.generate(params, constraint=held.constraint)]


def answer_of(ids: Sequence[int]) -> str:
    text = TOKENIZER.decode(list(ids))
    return text.rpartition("</think>")[2].removesuffix("<｜end▁of▁sentence｜>")


SCHEMAS = st.recursive(
    st.sampled_from(
        [
            {"type": "boolean"},
            {"type": "null"},
            {"type": "integer", "minimum": -5, "maximum": 120},
            {"type": "string", "maxLength": 5},
            {"enum": ["red", 'gr"een', 3]},
        ]
    ),
    lambda inner: st.one_of(
        st.builds(lambda items: {"type": "array", "items": items, "maxItems": 2}, inner),
        st.builds(
            lambda found: {
                "type": "object",
                "properties": found,
                "required": sorted(found),
                "additionalProperties": False,
            },
            st.dictionaries(st.sampled_from(["a", "b c", "ü"]), inner, min_size=1, max_size=2),
        ),
    ),
    max_leaves=3,
)


@given(schema=SCHEMAS, seed=st.integers(0, 1_000), thinks=st.booleans())
@settings(max_examples=25)
def test_random_weights_answer_what_the_schema_allows(
    schema: Mapping[str, Any], seed: int, thinks: bool
) -> None:
    prompt = THINKING if thinks else CHAT
    ids = sampled(prompt, schema=schema, tools=(), seed=seed, thinking_budget=4)
    assert ids[-1] == TOKENIZER.eos_id  # all of these have a longest value
    jsonschema.validate(json.loads(answer_of(ids)), schema)


def test_a_turn_is_calls_or_the_json() -> None:
    opening = TOKENIZER.encode('\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="read">\n', True)
    answered = called = 0
    for seed in range(24):
        ids = sampled(CHAT, seed=seed, most=60, temperature=100.0)
        text = TOKENIZER.decode(ids)
        if text.startswith(TOKENIZER.decode(opening)):
            called += 1
            continue
        parser = StreamParser({}, thinking=False, vocabulary=TOKENIZER)
        parser.feed_ids(ids)
        jsonschema.validate(json.loads(parser.finish(FinishReason.STOP).content), SCHEMA)
        answered += 1
    assert answered > 3 and called > 3


def test_calls_stay_possible_and_are_then_held_to_their_grammar() -> None:
    opening = TOKENIZER.encode("\n\n<｜DSML｜", True)
    expected = TOKENIZER.encode('\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="read">', True)
    ids = TOKENIZER.encode(CHAT, True)
    held = turn_constraint((READ,), GrammarMode.ON, SCHEMA, ids, TOKENIZER, Dialect.V4).constraint
    assert held is not None
    first = held.allowed()
    assert first is not None and opening[0] in first
    for token in expected:
        allowed = held.allowed()
        assert allowed is not None and token in allowed and TOKENIZER.eos_id not in allowed
        held.accept(token)


def test_the_thought_is_free() -> None:
    prompt = TOKENIZER.encode(THINKING, True)
    held = turn_constraint((), GrammarMode.ON, SCHEMA, prompt, TOKENIZER, Dialect.V4).constraint
    assert held is not None and held.allowed() is None
    held.accept(TOKENIZER.encode("x", False)[0])
    assert held.allowed() is None
    held.accept(TOKENIZER.end_think_id)
    allowed = held.allowed()
    assert allowed is not None and TOKENIZER.eos_id not in allowed


@pytest.mark.parametrize("prompt", [CHAT, THINKING])
def test_a_turn_that_was_cut_off_goes_on_as_it_would_have(prompt: str) -> None:
    whole = sampled(prompt, seed=3, tools=(), thinking_budget=6)
    for cut in range(1, len(whole), max(1, len(whole) // 6)):
        budget = max(0, 6 - cut)
        again = sampled(prompt, seed=3, tools=(), thinking_budget=budget, forced=whole[:cut])
        assert again == whole


def test_a_schema_that_cannot_be_followed_is_a_problem_and_no_error() -> None:
    ids = TOKENIZER.encode(CHAT, True)
    held = turn_constraint((READ,), GrammarMode.ON, {"type": "odd"}, ids, TOKENIZER, Dialect.V4)
    assert held.problem is not None and "not held" in held.problem and "\n" not in held.problem
    assert held.constraint is held.calls is not None


@pytest.mark.parametrize("grammar", [GrammarMode.OFF, GrammarMode.COUNTED])
def test_without_the_grammar_nothing_is_held(grammar: GrammarMode) -> None:
    ids = TOKENIZER.encode(CHAT, True)
    held = turn_constraint((), grammar, SCHEMA, ids, TOKENIZER, Dialect.V4)
    assert held.constraint is None


def test_the_last_marker_tells_whether_a_thought_is_open() -> None:
    assert thought_is_open(TOKENIZER.encode(THINKING, True), TOKENIZER)
    assert not thought_is_open(TOKENIZER.encode(THINKING + "y</think>", True), TOKENIZER)
    assert not thought_is_open([], TOKENIZER)


BOOK = {
    "name": "book",
    "description": "Book a table.",
    "parameters": {
        "type": "object",
        "properties": {
            "guests": {"type": "integer", "minimum": 1, "maximum": 12},
            "when": {"enum": ["noon", "evening"]},
            "wishes": {"type": "array", "items": {"$ref": "#/$defs/wish"}, "minItems": 1, "maxItems": 2},
        },
        "required": ["guests", "when", "wishes"],
        "additionalProperties": False,
        "$defs": {
            "wish": {
                "type": "object",
                "properties": {"what": {"type": "string", "maxLength": 6}, "kind": {"enum": ["a</b", 1]}},
                "required": ["what", "kind"],
                "additionalProperties": False,
            }
        },
    },
}


def called(seed: int, typed: frozenset[str], tool: Mapping[str, Any] = BOOK) -> ParsedMessage:
    """A call that random weights are made to sample."""
    opening = TOKENIZER.encode(calls_opener(Dialect.V4), True)
    ids = [*TOKENIZER.encode(CHAT, True), *opening]
    held = calls_constraint((tool,), TOKENIZER, Dialect.V4, single=True, typed=typed)
    assert held is not None
    for token in opening:
        held.accept(token)
    sequence = ENGINE.sequence()
    sequence.sync(ids)
    params = SamplingParams(temperature=100.0, seed=seed, max_tokens=600)
    sampled = list(sequence.generate(params, constraint=held))
    assert held.violations == 0
    parser = StreamParser(
        {tool["name"]: ToolSchema.from_function(tool)}, thinking=False, vocabulary=TOKENIZER
    )
    parser.feed_ids([*opening, *sampled])
    return parser.finish(FinishReason.STOP if sampled[-1] == TOKENIZER.eos_id else FinishReason.LENGTH)


@pytest.mark.parametrize("seed", range(8))
def test_forced_calls_have_arguments_of_their_schema(seed: int) -> None:
    [call] = called(seed, frozenset({"book"})).calls
    assert call.error is None and call.name == "book"
    jsonschema.validate(call.arguments, BOOK["parameters"])


def test_without_that_values_are_free() -> None:
    wrong = 0
    for seed in range(3):
        message = called(seed, frozenset())
        wrong += not message.calls or message.calls[0].error is not None
    assert wrong


def test_a_value_whose_schema_cannot_be_followed_is_free() -> None:
    odd = {"type": "array", "items": {"type": "string", "pattern": "^(?=x)"}}
    tool = {"name": "odd", "parameters": {"type": "object", "properties": {"a": odd}, "required": ["a"]}}
    held = calls_constraint((tool,), TOKENIZER, Dialect.V4, typed=frozenset({"odd"}))
    assert held is not None
    text = (
        calls_opener(Dialect.V4) + '<｜DSML｜invoke name="odd">\n<｜DSML｜parameter name="a" string="false">'
    )
    for token in TOKENIZER.encode(text, True):
        held.accept(token)
    allowed = held.allowed()
    assert allowed is not None and len(allowed) > TOKENIZER.size // 2


def test_a_value_begins_where_its_constraint_sees_it() -> None:
    held = calls_constraint((BOOK,), TOKENIZER, Dialect.V4, typed=frozenset({"book"}))
    assert held is not None
    head = '<｜DSML｜invoke name="book">\n<｜DSML｜parameter name="guests" string="false"'
    for token in TOKENIZER.encode(calls_opener(Dialect.V4) + head, True):
        held.accept(token)
    allowed = held.allowed()
    assert allowed is not None
    assert {TOKENIZER.token_bytes(int(token)) for token in allowed} == {b">"}
    held.accept(int(allowed[0]))
    allowed = held.allowed()
    assert allowed is not None
    assert all(TOKENIZER.token_bytes(int(token))[:1].isdigit() for token in allowed)
