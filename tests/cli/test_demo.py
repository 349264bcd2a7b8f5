"""`dsv4 demo` judges the outcome by the files, not by what the model says."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dsv4_agent.cli import demo


def run_demo(model: str, state: Path, temporary: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "dsv4_agent.cli.main", "demo", "--model", model],
        env={**os.environ, "DSV4_STATE_DIR": str(state), "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_model_that_only_claims_success_fails_the_demo(tmp_path: Path) -> None:
    script = tmp_path / "s"
    script.write_text("text: All done, trust me.\n")
    done = run_demo(f"scripted:{script}", tmp_path, tmp_path)
    assert done.returncode == 1
    assert "not as expected: basket.py, counter.py, test_basket.py" in done.stdout
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["s"]  # no sample left behind


def test_a_model_that_does_the_task_passes(tmp_path: Path) -> None:
    edits = "".join(
        f"call: edit\n  path: {path}\n  old_string: total_price\n"
        "  new_string: final_cost\n  replace_all: true\n"
        for path in ("basket.py", "counter.py", "test_basket.py")
    )
    script = tmp_path / "s"
    script.write_text(f"{edits}---\ntext: Renamed.\n")
    os.environ["DSV4_STATE_DIR"] = str(tmp_path / "state")
    try:
        assert demo._show(tmp_path / "repo", demo._tasks()[0], f"scripted:{script}")
        assert not demo._show(tmp_path / "other", demo._tasks()[1], f"scripted:{script}")
    finally:
        del os.environ["DSV4_STATE_DIR"]


def test_the_samples_are_as_told() -> None:
    rename, repair = demo._tasks()
    assert rename.files != rename.expected
    assert [path for path in repair.files if repair.files[path] != repair.expected[path]] == ["basket.py"]


@pytest.mark.slow
def test_the_built_in_model_does_both_tasks(tmp_path: Path) -> None:
    engine = pytest.importorskip("dsv4_model.engine")
    if not any((Path(engine.__file__).parent / "nano" / "weights").glob("*.safetensors")):
        pytest.skip("the built-in model has no weights yet")
    # Where users see it: a model of this size has not met paths as long as those of a test's own folder.
    done = run_demo("nano", tmp_path, Path(tempfile.gettempdir()))
    assert done.returncode == 0, done.stdout + done.stderr
