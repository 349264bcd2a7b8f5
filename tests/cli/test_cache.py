"""`dsv4 cache` over files that look like states; no model is needed for it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dsv4_agent.cli.cache import app
from dsv4_model.stored_states import MAGIC

KEY, DIGESTS = "0123456789abcdef", ("a" * 24, "ab" * 12, "c" * 24)
IDS = ("aaaaaaaa0123", "abababab0123", "cccccccc0123")


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def state(folder: Path, digest: str, tokens: int, days: float, model: str | None = "nano") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    header = b"{" if model is None else json.dumps({"model": model}).encode()
    path = folder / f"{KEY}-{tokens}-{digest}.kv"
    path.write_bytes((MAGIC + len(header).to_bytes(4, "little") + header).ljust(2048, b"\0"))
    used = time.time() - days * 86_400
    os.utime(path, (used, used))
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSV4_KV_DIR", str(tmp_path / "kv"))
    monkeypatch.setenv("DSV4_CONFIG_DIR", str(tmp_path / "config"))
    return tmp_path / "kv"


@pytest.fixture
def states(folder: Path) -> list[Path]:
    return [state(folder, digest, 1000 * n, n) for n, digest in enumerate(DIGESTS, 1)]


def test_ls_shows_what_is_there(folder: Path, states: list[Path]) -> None:
    (folder / "notes.txt").write_text("mine")
    code, out, err = run("ls")
    assert (code, err) == (0, "")
    head, *rows, total = out.splitlines()
    assert head.split()[:3] == ["ID", "Model", "Tokens"]
    assert [row.split()[:5] for row in rows] == [
        [name, "nano", f"{1000 * n:,}", "2.0", "KiB"] for n, name in enumerate(IDS, 1)
    ]
    assert total == "3 states, 6.0 KiB of 4.0 GiB"


def test_ls_as_json(folder: Path, states: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSV4_KV_CACHE_LIMIT", "1 MiB")
    code, out, _ = run("ls", "--json")
    shown = json.loads(out)
    assert code == 0
    assert (shown["folder"], shown["total"], shown["limit"]) == (str(folder), 6144, 1 << 20)
    assert [row["id"] for row in shown["states"]] == list(IDS)
    assert shown["states"][0].keys() == {"id", "model", "tokens", "bytes", "used"}
    assert shown["states"][0]["used"].endswith("+00:00")


def test_ls_of_nothing_and_with_storing_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("ls") == (0, "0 states, 0 B of 4.0 GiB\n", "")
    monkeypatch.setenv("DSV4_KV_CACHE_LIMIT", "0")
    assert run("ls") == (0, "0 states, 0 B; storing is switched off\n", "")


def test_ls_survives_damaged_files_and_hostile_names(folder: Path) -> None:
    state(folder, DIGESTS[0], 1, 1, None)
    state(folder, DIGESTS[1], 2, 2, "\x1b]0;owned\x07\n\u202e")
    os.utime(state(folder, DIGESTS[2], 3, 3), (2**40, 2**40))
    state(folder, "d" * 24, 4, 1).unlink()
    (folder / f"{KEY}-4-{'d' * 24}.kv").symlink_to("/etc/passwd")
    code, out, err = run("ls")
    assert (code, err) == (0, "")
    assert "unknown" in out and "\x1b" not in out and "\u202e" not in out and "\\x1b]0;owned" in out
    assert out.splitlines()[-1].startswith("3 states")


def test_rm_by_id(folder: Path, states: list[Path]) -> None:
    assert run("rm", IDS[0], "c", "cccc") == (0, "Removed 2 states, 4.0 KiB.\n", "")
    assert list(folder.iterdir()) == [states[1]]


def test_rm_refuses_what_it_can_t_tell(folder: Path, states: list[Path]) -> None:
    for arguments, words in (
        (("a",), "2 states begin with 'a'"),
        (("f00",), "there is no state 'f00'"),
        (("",), "there is no state ''"),
        ((IDS[0], "f00"), "there is no state"),
        ((), "say what to remove"),
        (("--all", IDS[0]), "say what to remove"),
        (("--all", "--older-than", "1"), "say what to remove"),
    ):
        code, out, err = run("rm", *arguments)
        assert (code, out) == (42, "")
        assert err.startswith("dsv4: error: ") and words in err and err.count("\n") == 1
    assert len(list(folder.iterdir())) == 3


def test_rm_by_age_and_all(folder: Path, states: list[Path]) -> None:
    part = folder / f"{KEY}-9-{'e' * 24}.1-00000000.part"
    part.write_bytes(b"")
    os.utime(part, (1, 1))
    assert run("rm", "--older-than", "1.5") == (0, "Removed 2 states, 4.0 KiB.\n", "")
    assert list(folder.iterdir()) == [states[0]]
    assert run("rm", "--all") == (0, "Removed 1 state, 2.0 KiB.\n", "")
    assert run("rm", "--all") == (0, "Removed 0 states, 0 B.\n", "")


def test_path(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("path") == (0, f"{folder}\n", "")
    monkeypatch.delenv("DSV4_KV_DIR")
    monkeypatch.setenv("DSV4_CACHE_DIR", str(tmp_path / "base"))
    assert run("path") == (0, f"{tmp_path / 'base' / 'kv'}\n", "")
    monkeypatch.delenv("DSV4_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert run("path")[1].rstrip().endswith("dsv4/kv")


def test_a_folder_that_is_none_is_a_line(folder: Path) -> None:
    folder.write_text("")
    for arguments in (("ls",), ("rm", "--all")):
        code, _, err = run(*arguments)
        assert code == 42 and err.startswith("dsv4: error: ") and err.count("\n") == 1


def test_a_limit_that_is_none_is_a_configuration_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSV4_KV_CACHE_LIMIT", "plenty")
    code, _, err = run("ls")
    assert code == 52 and "DSV4_KV_CACHE_LIMIT" in err and err.count("\n") == 1
