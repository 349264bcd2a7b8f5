"""`dsv4 model export` as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gguf", reason="needs the export extra")

from gguf import GGUFReader

RUN = "import sys; from dsv4_agent.cli.main import main; sys.exit(main())"


def export(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", RUN, "model", "export", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def refused(*arguments: object) -> str:
    result = export(*arguments)
    assert (result.returncode, result.stdout) == (42, "")
    assert result.stderr.startswith("dsv4: error: ") and result.stderr.count("\n") == 1
    return result.stderr


def test_nano(tmp_path: Path) -> None:
    file = tmp_path / "nano.gguf"
    result = export("nano", "--gguf", file, "--type", "mxfp4")
    assert (result.returncode, result.stderr) == (0, "")
    reader = GGUFReader(file)
    assert reader.get_field("general.name").contents() == "V4-Nano"
    assert f"{file}: " in result.stdout and f"{len(reader.tensors)} tensors" in result.stdout
    assert "exists already" in refused("nano", "--gguf", file)
    assert export("nano", "--gguf", file, "--force").returncode == 0
    assert list(tmp_path.iterdir()) == [file]


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    assert "does not exist" in refused(tmp_path / "nowhere", "--gguf", out)
    assert "holds neither" in refused(tmp_path, "--gguf", out)
    assert "no folder" in refused("nano", "--gguf", tmp_path / "absent" / "out.gguf")
    assert "is a folder" in refused("nano", "--gguf", tmp_path)
    assert "tokenizer" in refused("nano", "--gguf", out, "--tokenizer", tmp_path / "none.json")
    assert not out.exists()


def test_an_unknown_type_is_a_usage_error(tmp_path: Path) -> None:
    result = export("nano", "--gguf", tmp_path / "out.gguf", "--type", "q4_0")
    assert result.returncode == 2 and "mxfp4" in result.stderr
