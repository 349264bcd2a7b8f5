"""Plans: what is accepted, and what is said about what is not."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from dsv4_agent.batch.choices import Delivery
from dsv4_agent.batch.plan import PlanError, load_plan, parse_plan, plan_schema

SMALLEST = """
prompt = "Rename {old} to {new} everywhere"
items = { jsonl = "items.jsonl" }
verify = "pytest -q {path}"
"""


def test_the_smallest_plan_has_three_keys(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(SMALLEST)
    plan = load_plan(path)
    assert plan.verify == ("pytest -q {path}",)
    assert plan.items.jsonl == "items.jsonl"
    assert plan.deliver is Delivery.PATCHES


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"promt": "x"}, ("unknown key promt", "prompt")),
        ({"items": {"jsonl": "a", "path": "b"}}, ("unknown key items.path", "jsonl")),
        ({"budget": {"max_turn": 1}}, ("unknown key budget.max_turn", "max_turns")),
        ({"items": {"jsonl": "a", "lines": "b"}}, ("exactly one of", "lines")),
        ({"items": {}}, ("exactly one of", "none")),
        ({"prompt": "   "}, ("prompt is empty",)),
        ({"prompt_file": "p.md"}, ("either prompt or prompt_file",)),
        ({"retries": -1}, ("retries",)),
        ({"jobs": "many"}, ("jobs",)),
        ({"deliver": "push"}, ("deliver", "patches", "commits")),
        ({"name": "a b"}, ("name",)),
        ({"verify_timeout": 0}, ("verify_timeout",)),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, object], words: tuple[str, ...]) -> None:
    data = {"prompt": "Do {x}", "items": {"jsonl": "i.jsonl"}, **change}
    with pytest.raises(PlanError) as caught:
        parse_plan(data, "plan.toml")
    message = str(caught.value)
    assert message.startswith("plan.toml: ")
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_missing_key_is_named() -> None:
    with pytest.raises(PlanError, match="items is missing"):
        parse_plan({"prompt": "x"}, "plan.toml")


@pytest.mark.parametrize(
    "content",
    [b"prompt = ", b"\xff\xfe", b"prompt = 1\nprompt = 2", b"a = " + b"[" * 5000, b"a = " + b"9" * 5000],
)
def test_a_file_that_is_no_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "plan.toml"
    path.write_bytes(content)
    with pytest.raises(PlanError, match="is not TOML"):
        load_plan(path)


def test_prompt_file_is_read_next_to_the_plan(tmp_path: Path) -> None:
    (tmp_path / "prompt.md").write_text("Do {path}")
    path = tmp_path / "plan.toml"
    path.write_text('prompt_file = "prompt.md"\nitems = { glob = "*.py" }\n')
    assert load_plan(path).prompt == "Do {path}"
    for file in tmp_path.iterdir():  # as editors of Windows write them
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert load_plan(path).prompt == "Do {path}"
    (tmp_path / "prompt.md").unlink()
    with pytest.raises(PlanError, match=r"prompt\.md can't be read"):
        load_plan(path)


def test_the_schema_says_the_same() -> None:
    schema = plan_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    good = {"prompt": "x", "items": {"glob": ["*.py"]}, "verify": ["true"], "budget": {"max_turns": 3}}
    assert not list(validator.iter_errors(good))
    for bad in ({**good, "promt": 1}, {**good, "jobs": 0}, {"prompt": "x"}, {**good, "deliver": "push"}):
        assert list(validator.iter_errors(bad)), bad


def test_the_schema_takes_one_text_for_a_list() -> None:
    validator = jsonschema.Draft202012Validator(plan_schema())
    assert not list(validator.iter_errors({"prompt": "x", "items": {"glob": "*.py"}, "verify": "true"}))
