"""How the engine benchmark compares and judges; it measures nothing here."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the benchmark needs the local extra")

from bench.engine.results import Results, Row, draw, table


def results() -> Results:
    found = Results({"threads": 1})
    for engine, decode, prefill in (
        ("dsv4", [300.0, 320.0, 100.0], [900.0]),
        ("transformers", [10.0], [400.0]),
        ("llama.cpp", [250.0], [800.0]),
    ):
        found.rows.append(Row("nano", engine, "decode", 4096, "tok/s", decode))
        found.rows.append(Row("nano", engine, "prefill", 2048, "tok/s", prefill))
    found.rows.append(Row("nano", "dsv4", "depth", 65536, "x", [0.5, 0.6, 0.65]))
    found.rows.append(Row("nano", "dsv4", "fork", 65536, "ms", [1.5, 2.5, 2.0]))
    found.rows.append(Row("nano", "dsv4", "restore", 65536, "x", [31.0]))
    found.rows.append(Row("nano", "dsv4", "first token", 4096, "ms", [50.0]))
    found.rows.append(Row("nano", "llama.cpp", "first token", 4096, "ms", [200.0]))
    return found


def test_ratios_say_how_much_better_this_engine_is() -> None:
    found = results()
    peer = found.find("nano", "transformers", "decode", 4096)
    slow = found.find("nano", "llama.cpp", "first token", 4096)
    assert peer is not None and found.ratio(peer) == pytest.approx(30.0)
    assert slow is not None and found.ratio(slow) == pytest.approx(4.0)
    ours = found.find("nano", "dsv4", "decode", 4096)
    assert ours is not None and found.ratio(ours) is None and (ours.median, ours.best) == (300.0, 320.0)


def test_goals() -> None:
    met = {text.removeprefix("nano: "): ok for text, _, ok in results().goals()}
    assert met == {
        "decode at 4k >= 30x transformers": True,
        "prefill >= 3x transformers": False,
        "decode at 4k >= 1.5x llama.cpp": False,
        "prefill >= 1x llama.cpp": True,
        "decode at 64k >= 0.7 of 512": False,
        "fork at 64k < 5 ms": True,
        "restore at 64k >= 20x prefill": True,
    }
    assert "MISSED nano: prefill >= 3x transformers: 2.25" in table(results())


def test_what_was_not_measured_is_not_judged() -> None:
    assert Results().goals() == []
    assert Results().as_json() == {"machine": {}, "rows": [], "goals": []}


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="optional")
    assert draw(results(), tmp_path / "bench.svg")
    assert (tmp_path / "bench.svg").stat().st_size > 1000
