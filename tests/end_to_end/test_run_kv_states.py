"""`dsv4 run` twice with the built-in model: the second one's prompt is restored, not computed."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("torch", reason="the engine's package needs torch")

from dsv4_model.engine import Engine


def first_turn(dsv4: Any, helpers: Any, *arguments: str) -> dict[str, int]:
    done = dsv4("run", "Show the git status.", "--model", "nano", "--json", *arguments)
    events = helpers.check_stream(done.stdout)
    assert events[-1]["subtype"] == "success"
    kv: dict[str, int] = next(event["kv"] for event in events if event["type"] == "context.updated")
    return kv


def states(dsv4: Any) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(dsv4("cache", "ls", "--json").stdout)["states"]
    return listed


@pytest.mark.slow
def test_the_second_run_begins_where_the_first_one_did(dsv4: Any, helpers: Any) -> None:
    Engine.load("nano")  # builds the native library, for which a run would have too little time
    first = first_turn(dsv4, helpers, "--ephemeral")
    assert (first["reused"], first["restored"]) == (0, 0)
    (opening,) = states(dsv4)
    assert opening["model"] == "nano" and opening["tokens"] < first["prefilled"]
    second = first_turn(dsv4, helpers)
    assert second["restored"] == second["reused"] == opening["tokens"]
    assert second["prefilled"] == first["prefilled"] - opening["tokens"] < 64
    kept = states(dsv4)
    assert len(kept) == 2 and kept[0]["tokens"] > first["prefilled"]
    assert b"Removed 2 states" in dsv4("cache", "rm", "--all").stdout
    dsv4.environment["DSV4_KV_CACHE_LIMIT"] = "0"
    assert first_turn(dsv4, helpers)["restored"] == 0
    assert states(dsv4) == []
