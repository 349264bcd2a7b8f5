"""What is given beside `--resume` and would change the batch is refused, never left aside in silence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a batch that can't go on, for its server is not there."""
    for name in ("STATE", "CONFIG", "CACHE"):
        monkeypatch.setenv(f"DSV4_{name}_DIR", str(tmp_path / name))
    monkeypatch.setenv("DSV4_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.delenv("DSV4_MODEL", raising=False)
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "names.txt").write_text("a\nb\n")
    (folder / "plan.toml").write_text(
        'prompt = "Say {line}"\nitems = { lines = "names.txt" }\nmodel = "server"\n'
        "budget = { max_turns = 3 }\n"
    )
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.invalid")
    for arguments in (("init", "-q"), ("add", "."), (*identity, "commit", "-qm", "x")):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    assert dsv4_batch(folder, "plan.toml", "--jobs", "2").returncode == 41
    return folder


def dsv4_batch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(str(ROOT / part) for part in ("", "tools", "model", "prompts"))
    command = [sys.executable, "-P", "-m", "dsv4_agent.cli.main", "batch", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        (("--model", "nano"), "model"),
        (("--jobs", "3", "--max-turns", "9"), "budget, jobs"),
        (("--each", "*.txt"), "items"),
    ],
)
def test_another_plan_is_refused_by_its_keys(batch: Path, options: tuple[str, ...], keys: str) -> None:
    done = dsv4_batch(batch, "--resume", *options)
    assert done.returncode == 42
    assert f"which has another {keys}; leave that out" in done.stderr


def test_the_same_options_go_on(batch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSV4_MODEL", "nano")
    done = dsv4_batch(batch, "--resume", "--jobs", "2", "--max-turns", "3")
    assert "goes on: a" in done.stderr
