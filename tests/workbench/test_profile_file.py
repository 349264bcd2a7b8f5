"""Changing the models of config.toml leaves everything else as it was written."""

from __future__ import annotations

import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dsv4_agent.workbench.profile_file import add_profile, remove_profile, use_model
from dsv4_agent.workbench.settings import SettingsError, load_settings, save_theme

MINE = """\
# my settings
[tui]
theme = "dsv4-light"  # bright

[models.a]  # the first
base_url = "http://a"

[chat]
model = "a"
permission_mode = "plan"

[models.b]
base_url = "http://b"
"""


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSV4_CONFIG_DIR", str(tmp_path))
    return tmp_path / "config.toml"


def test_the_first_model_of_all(file: Path) -> None:
    add_profile("flash", {"base_url": "http://x/v1", "model": "m"})
    assert file.read_text() == '[models.flash]\nbase_url = "http://x/v1"\nmodel = "m"\n'
    assert file.stat().st_mode & 0o777 == 0o600


def test_comments_and_order_survive(file: Path) -> None:
    file.write_text(MINE)
    add_profile("c", {"base_url": "http://c", "headers": {"X": "1"}})
    use_model("c")
    text = file.read_text()
    assert all(
        part in text for part in ("# my settings", "# bright", "# the first", 'permission_mode = "plan"')
    )
    settings = load_settings()
    assert (settings.model, settings.chat_model, settings.theme) == ("c", None, "dsv4-light")
    assert sorted(settings.models) == ["a", "b", "c"]
    assert settings.models["c"].profile.headers == {"X": "1"}


def test_what_is_removed_is_no_default_any_more(file: Path) -> None:
    file.write_text(MINE)
    assert remove_profile("a") and not remove_profile("b")
    settings = load_settings()
    assert (dict(settings.models), settings.model, settings.chat_model) == ({}, None, None)
    assert settings.permission_mode == "plan"
    with pytest.raises(SettingsError, match="no model 'a': there is none"):
        remove_profile("a")


def test_nothing_is_replaced_by_accident(file: Path) -> None:
    file.write_text(MINE)
    with pytest.raises(SettingsError, match="already"):
        add_profile("a", {"base_url": "http://new"})
    assert file.read_text() == MINE
    add_profile("a", {"base_url": "http://new"}, replaces=True)
    assert load_settings().models["a"].profile.base_url == "http://new"


@pytest.mark.parametrize("table", [{"base_url": "nowhere"}, {"base_url": "http://x", "api_key": "sk"}, {}])
def test_what_can_t_be_read_is_not_written(file: Path, table: dict[str, object]) -> None:
    file.write_text(MINE)
    with pytest.raises(SettingsError):
        add_profile("c", table)
    with pytest.raises(SettingsError):
        add_profile("nano", {"base_url": "http://x"})
    assert file.read_text() == MINE


def test_a_broken_file_is_left_alone(file: Path) -> None:
    file.write_text("[tui\n")
    for change in (lambda: add_profile("a", {"base_url": "http://x"}), lambda: use_model("nano")):
        with pytest.raises(SettingsError, match="can't be read"):
            change()
    assert file.read_text() == "[tui\n"


def test_a_link_stays_a_link(file: Path, tmp_path: Path) -> None:
    (tmp_path / "dotfiles").mkdir()
    kept = tmp_path / "dotfiles" / "dsv4.toml"
    kept.write_text(MINE)
    file.symlink_to(kept)
    use_model("b")
    save_theme("dsv4-dark")
    assert file.is_symlink() and tomllib.loads(kept.read_text())["model"] == "b"
    assert load_settings().theme == "dsv4-dark"


def test_line_ends_stay_and_the_mark_of_an_editor_does_no_harm(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + MINE.replace("\n", "\r\n").encode())
    assert load_settings().chat_model == "a"
    use_model("b")
    assert b'base_url = "http://b"\r\n' in file.read_bytes() and load_settings().model == "b"


def test_models_in_one_line_get_one_more(file: Path) -> None:
    file.write_text('models = { a = { base_url = "http://a" } }\n')
    add_profile("b", {"base_url": "http://b", "headers": {"X": "1"}})
    assert sorted(load_settings().models) == ["a", "b"]


def test_nothing_is_lost_between_two_programs(file: Path) -> None:
    def add(number: int) -> None:
        add_profile(f"m{number}", {"base_url": f"http://h{number}"})

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, range(24)))
    assert len(load_settings().models) == 24
