"""The generator of V4-Nano's tasks: disjoint names, solvable tasks, checks that can fail."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from dsv4_model.nano import WEIGHTS
from dsv4_model.nano.data.families import FAMILIES, draw
from dsv4_model.nano.data.names import Names, Split, is_held_out, misspell
from dsv4_model.nano.data.record import record, turn_text
from dsv4_model.nano.data.task import Call, Outcome, Step
from dsv4_model.nano.data.workspace import interpreter_with_hints, materialised
from dsv4_model.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(WEIGHTS / "tokenizer.json")


@pytest.mark.parametrize("split", list(Split))
def test_names_belong_to_their_split_and_never_contain_one_another(split: Split) -> None:
    names = Names(random.Random(3), split)
    drawn = [make() for _ in range(20) for make in (names.snake, names.camel, names.pascal, names.constant)]
    assert all(is_held_out(name) is (split is Split.HELD_OUT) for name in drawn)
    plain = [name.lower() for name in drawn]
    assert not [(a, b) for a in plain for b in plain if a is not b and a in b]


def test_a_misspelling_differs_by_one_slip() -> None:
    rng = random.Random(1)
    for word in ("total", "merge_basket", "blueGate"):
        slip = misspell(word, rng)
        assert slip != word
        assert abs(len(slip) - len(word)) <= 1


def test_the_same_seed_draws_the_same_task() -> None:
    first, second = draw(11, Split.TRAIN), draw(11, Split.TRAIN)
    assert (first.family, first.prompt, first.repository.files) == (
        second.family,
        second.prompt,
        second.repository.files,
    )


@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_oracle_solves_its_task_through_the_real_loop(family: str, tokenizer: Tokenizer) -> None:
    task = draw(5, Split.HELD_OUT, family)
    recorded = asyncio.run(record(task, 5, tokenizer))
    assert recorded is not None
    prefix, episode = recorded
    assert prefix[0] == tokenizer.bos_id
    assert episode[0] == (tokenizer.user_id, False)
    assert episode[-1] == (tokenizer.eos_id, True)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_no_task_is_done_by_doing_nothing(family: str) -> None:
    task = draw(6, Split.TRAIN, family)
    with materialised(task, 6) as (root, head):
        assert not task.check(Outcome(root, "", 0, head))


def test_a_changed_bystander_fails_the_check() -> None:
    task = draw(2, Split.TRAIN, "lookup")
    with materialised(task, 2) as (root, head):
        answer = "`" + "` `".join(" ".join(task.repository.files.values()).split()) + "`"
        (root / "stray.txt").write_text("x", encoding="utf-8")
        assert not task.check(Outcome(root, answer, 0, head))


def test_hints_are_printed_by_any_interpreter(tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "test_it.py").write_text(
        "import unittest\n\nclass T(unittest.TestCase):\n"
        "    def test(self):\n        total = 1\n        totla\n",
        encoding="utf-8",
    )
    with interpreter_with_hints():
        done = subprocess.run(
            ["python3", "-m", "unittest", "-q"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
    assert "Did you mean: 'total'?" in done.stderr


def test_values_are_content_and_tags_structure() -> None:
    segments = turn_text(Step("Think.", (Call("write", {"path": "a", "content": "</think>"}),)))
    assert [s.text for s in segments if not s.structure] == ["a", "</think>"]
