from __future__ import annotations

from pathlib import Path

import pytest

from dsv4_agent.headless.output_schema import Mismatch, OutputSchema
from dsv4_agent.workbench.failures import RunFailure

SCHEMA = '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'


def test_a_value_alone_or_in_one_fence() -> None:
    schema = OutputSchema.load(SCHEMA)
    assert schema.check(' {"n": 1}\n') == {"n": 1}
    assert schema.check('Here it is:\n```json\n{"n": 2}\n```\n') == {"n": 2}


@pytest.mark.parametrize(
    "message",
    ["", "n is 1", '{"n": NaN}', '{"n": "1"}', "{}", "[" * 100_000, '```\n{"n":1}\n```\n```\n{"n":2}\n```'],
)
def test_anything_else_is_a_mismatch_that_says_why(message: str) -> None:
    with pytest.raises(Mismatch, match="last message"):
        OutputSchema.load(SCHEMA).check(message)


@pytest.mark.parametrize("source", ["{", '{"type": 3}', "/no/such/file", "a\0b"])
def test_a_bad_schema_is_input(source: str) -> None:
    with pytest.raises(RunFailure) as caught:
        OutputSchema.load(source)
    assert caught.value.code == 42


def test_files(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("true")
    assert OutputSchema.load(str(tmp_path / "s.json")).check("3") == 3
    (tmp_path / "s.json").write_bytes(b"\xff")
    with pytest.raises(RunFailure):
        OutputSchema.load(str(tmp_path / "s.json"))


def test_the_model_is_told_the_schema() -> None:
    assert '"required": ["n"]' in OutputSchema.load(SCHEMA).instruction()
