from __future__ import annotations

import json
from pathlib import Path

import pytest

from dsv4_agent.headless.output_schema import Mismatch, OutputSchema
from dsv4_agent.workbench.failures import RunFailure

SCHEMA = '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'
_DEEP = '{"not": ' * 900 + "{}" + "}" * 900


def test_a_value_alone_or_in_one_fence() -> None:
    schema = OutputSchema.load(SCHEMA)
    assert schema.check(' {"n": 1}\n') == {"n": 1}
    assert schema.check('Here it is:\n```json\n{"n": 2}\n```\n') == {"n": 2}


@pytest.mark.parametrize(
    "message",
    [
        "",
        "n is 1",
        '{"n": NaN}',
        '{"n": 1, "x": 1e999}',
        '{"n": "1"}',
        "{}",
        "[" * 100_000,
        '```\n{"n":1}\n```\n```\n{"n":2}\n```',
    ],
)
def test_anything_else_is_a_mismatch_that_says_why(message: str) -> None:
    with pytest.raises(Mismatch, match="last message"):
        OutputSchema.load(SCHEMA).check(message)


@pytest.mark.parametrize(
    "source",
    ["{", '{"type": 3}', "/no/such/file", "a\0b", '{"$schema": 5}', '{"$schema": ["a"]}', _DEEP],
)
def test_a_bad_schema_is_input(source: str) -> None:
    with pytest.raises(RunFailure) as caught:
        OutputSchema.load(source)
    assert caught.value.code == 42


@pytest.mark.parametrize("target", ["#/$defs/nobody", "other.json", "http://["])
def test_a_reference_that_leads_nowhere_is_input(target: str) -> None:
    with pytest.raises(RunFailure, match="leads nowhere"):
        OutputSchema.load(json.dumps({"properties": {"n": {"$ref": target}}}))


def test_nothing_is_read_beside_the_schema(tmp_path: Path) -> None:
    """Neither from the network nor from a file: a schema may come from a repository."""
    (tmp_path / "s.json").write_text('{"type": "string"}')
    with pytest.raises(RunFailure, match="leads nowhere"):
        OutputSchema.load(json.dumps({"$ref": (tmp_path / "s.json").as_uri()}))


def test_references_within_the_schema() -> None:
    inner = {"$id": "inner", "$defs": {"n": {"type": "integer"}}}
    properties = {"n": {"$ref": "inner#/$defs/n"}, "s": {"$ref": "http://json-schema.org/draft-07/schema#"}}
    schema = OutputSchema.load(json.dumps({"$id": "a:/b", "$defs": {"i": inner}, "properties": properties}))
    assert schema.check('{"n": 1, "s": {"type": "string"}}')
    with pytest.raises(Mismatch):
        schema.check('{"n": "1"}')


def test_a_schema_that_leads_back_to_itself_is_the_users_mistake() -> None:
    with pytest.raises(RunFailure, match="leads back to itself"):
        OutputSchema.load('{"$ref": "#"}').check("1")


def test_files(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("true")
    assert OutputSchema.load(str(tmp_path / "s.json")).check("3") == 3
    (tmp_path / "s.json").write_bytes(b"\xef\xbb\xbftrue")  # as editors of Windows write it
    assert OutputSchema.load(str(tmp_path / "s.json")).check("3") == 3
    (tmp_path / "s.json").write_bytes(b"\xff")
    with pytest.raises(RunFailure):
        OutputSchema.load(str(tmp_path / "s.json"))


def test_the_model_is_told_the_schema() -> None:
    assert '"required": ["n"]' in OutputSchema.load(SCHEMA).instruction()
