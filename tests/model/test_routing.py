"""Routing statistics, from counts and from a run."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from dsv4_agent.cli.commands import app
from dsv4_model.engine import Engine, EngineOptions
from dsv4_model.routing import routing
from tests.model import tiny


def test_even_and_lopsided_loads() -> None:
    even, lopsided = routing(torch.tensor([[5, 5, 5, 5], [0, 0, 0, 0], [9, 0, 3, 0]]))
    assert (even.layer, even.entropy, even.busiest, even.unused) == (0, 2.0, 1.0, 0)
    assert lopsided.layer == 2 and lopsided.busiest == 3.0 and lopsided.unused == 2
    assert lopsided.entropy == pytest.approx(0.8113, abs=1e-4)
    assert 0 < lopsided.evenness < even.evenness == 1.0


def test_an_engine_counts_only_where_asked() -> None:
    assert tiny.engine().expert_counts is None
    engine = Engine(tiny.module(), tiny.tokenizer(), "tiny", EngineOptions(count_experts=True))
    engine.sequence().sync(list(range(7, 107)))
    assert engine.expert_counts is not None
    layers = routing(engine.expert_counts)
    assert [layer.layer for layer in layers] == [0, 1, 2, 3]
    assert all(sum(layer.counts) == 100 * 2 for layer in layers)


def test_the_command_prints_a_table_and_json() -> None:
    table = CliRunner().invoke(app, ["model", "routing", "nano", "-"], input="def total():\n    return 1\n")
    assert table.exit_code == 0 and "evenness" in table.output
    printed = CliRunner().invoke(app, ["model", "routing", "nano", "--json"], input="def total(): pass\n")
    assert len(json.loads(printed.output)["layers"]) == 4
    empty = CliRunner().invoke(app, ["model", "routing", "nano"], input="")
    assert empty.exit_code == 42
