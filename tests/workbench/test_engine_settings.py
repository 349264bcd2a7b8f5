"""Where the engine's choices come from: command line, environment, the user's file; never a repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsv4_agent.workbench.engine_settings import LIMIT_VARIABLE, resolved
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.model_options import EngineChoice
from dsv4_agent.workbench.settings import SettingsError, load_settings
from dsv4_agent.workbench.sizes import parse_size, size
from dsv4_model.accounting import CacheFormat

WHOLE = """
[engine]
cache_limit = "500 MB"
cache_format = "fp8"
memory_budget = 1024
threads = 3
device = "cuda:0,cuda:1"
"""


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSV4_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.delenv(LIMIT_VARIABLE, raising=False)
    (tmp_path / "config").mkdir()
    return tmp_path / "config" / "config.toml"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("512", 512),
        ("7b", 7),
        ("4 GiB", 4 << 30),
        (" 20g ", 20 << 30),
        ("1.5K", 1536),
        ("500 MB", 500_000_000),
        ("2tib", 2 << 40),
    ],
)
def test_sizes_as_people_write_them(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1 XB", "4 GiBs", "1e9", "inf", "٤ GiB", "9" * 30, "1 2"])
def test_what_is_no_size_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


def test_sizes_as_people_read_them() -> None:
    assert [size(n) for n in (0, 1023, 1536, 5 << 20, 3 << 40)] == [
        "0 B",
        "1,023 B",
        "1.5 KiB",
        "5.0 MiB",
        "3,072.0 GiB",
    ]


def test_without_anything_there_are_defaults() -> None:
    assert resolved(EngineChoice()) == EngineChoice(cache_limit=4 << 30)


def test_the_file_fills_in_what_the_command_line_leaves_open(settings: Path) -> None:
    settings.write_text(WHOLE)
    found = resolved(EngineChoice(threads=1, keep_conversations=False))
    assert found == EngineChoice(
        cache_format=CacheFormat.FP8,
        memory_budget=1024,
        threads=1,
        device="cuda:0,cuda:1",
        cache_limit=500_000_000,
        keep_conversations=False,
    )
    assert resolved(EngineChoice(device="cpu")).device == "cpu"
    alone = resolved(EngineChoice(user_settings=False))
    assert (alone.cache_format, alone.cache_limit) == (None, 4 << 30)


def test_the_environment_goes_before_the_file(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.write_text(WHOLE)
    monkeypatch.setenv(LIMIT_VARIABLE, "0")
    assert resolved(EngineChoice()).cache_limit == 0
    monkeypatch.setenv(LIMIT_VARIABLE, "lots")
    with pytest.raises(RunFailure, match="'lots' is not a size") as caught:
        resolved(EngineChoice())
    assert caught.value.code == 52 and LIMIT_VARIABLE in caught.value.line()


def test_a_repository_s_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (tmp_path, tmp_path / ".dsv4"):
        place.mkdir(exist_ok=True)
        (place / "config.toml").write_text(WHOLE)
    (tmp_path / ".env").write_text(f"{LIMIT_VARIABLE}=1\n")
    monkeypatch.chdir(tmp_path)
    assert resolved(EngineChoice()) == EngineChoice(cache_limit=4 << 30)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('cache_limit = "much"', "cache_limit must be a size"),
        ("cache_limit = -1", "cache_limit must be a size"),
        ("memory_budget = true", "memory_budget must be a size"),
        ("memory_budget = 1.5", "memory_budget must be a size"),
        ('cache_format = "int4"', "cache_format must be one of fp32, bf16, fp8, fp8.fp4"),
        ("cache_format = 8", "cache_format must be a text"),
        ("device = 0", "device must be a text"),
        ("threads = 0", "threads must be a number of at least 1"),
        ("threads = true", "threads must be a number"),
        ("speed = 9", "speed is unknown"),
    ],
)
def test_what_the_file_gets_wrong_is_said(settings: Path, line: str, words: str) -> None:
    settings.write_text(f"[engine]\n{line}\n")
    with pytest.raises(SettingsError, match=words):
        load_settings()
    with pytest.raises(RunFailure) as caught:
        resolved(EngineChoice())
    assert caught.value.code == 52
