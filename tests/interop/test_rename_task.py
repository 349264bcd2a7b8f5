"""The whole rename task through `dsv4 run`, V4-Nano's weights served by others: the same tokens from each.

dsv4 serve is always tried, what `bench.interop.peers` names where it is; `make interop` writes a log of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the server runs the engine")
pytest.importorskip("uvicorn", reason="the server needs its packages")

from bench.interop.peers import NotHereError, llama_server, own_server, transformers_serve
from bench.interop.rename import Outcome, do_task
from bench.interop.served import Served


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One place for all: a prompt tells where the work is done, and must be the same."""
    return tmp_path_factory.mktemp("interop")


@pytest.fixture(scope="module")
def own(place: Path) -> Iterator[Served]:
    with own_server(place) as served:
        yield served


@pytest.fixture(scope="module")
def expected(own: Served, place: Path) -> Outcome:
    return do_task(own, place, "tokens")


def done(outcome: Outcome) -> None:
    assert outcome.exit_code == 0 and outcome.renamed, outcome.errors
    assert outcome.turns[-1].endswith("Renamed `total_price` to `final_cost`.<｜end▁of▁sentence｜>")


def test_dsv4_serve_by_tokens(expected: Outcome) -> None:
    done(expected)
    assert all(expected.ids)


def test_dsv4_serve_by_chat(own: Served, place: Path, expected: Outcome) -> None:
    """The server renders and parses: another way to the same turns."""
    outcome = do_task(own, place, "chat")
    done(outcome)
    assert len(outcome.turns) == len(expected.turns)


@pytest.mark.slow
@pytest.mark.parametrize("start", [llama_server, transformers_serve])
def test_others_sample_the_same(
    start: Callable[[Path], AbstractContextManager[Served]], place: Path, expected: Outcome
) -> None:
    try:
        with start(place) as served:
            outcome = do_task(served, place, "tokens")
    except NotHereError as missing:
        pytest.skip(str(missing))
    done(outcome)
    assert outcome.turns == expected.turns
    assert outcome.ids == expected.ids or outcome.ids == (None,) * len(outcome.turns)
