"""Settings come from one file, and saving the theme leaves the rest of it alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsv4_agent.workbench.private_file import write_private
from dsv4_agent.workbench.settings import Settings, SettingsError, load_settings, save_theme


def test_no_file_means_defaults(tmp_path: Path) -> None:
    assert load_settings(tmp_path / "none.toml") == Settings()


def test_a_theme_is_saved_beside_comments(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('# mine\n[keys]\n"app.leave" = "f9" # so\n')
    assert save_theme("dsv4-light", path).theme == "dsv4-light"
    text = path.read_text()
    assert "# mine" in text and "# so" in text
    assert load_settings(path) == Settings(theme="dsv4-light", keys={"app.leave": "f9"})
    save_theme("dsv4-dark", path)
    assert load_settings(path).theme == "dsv4-dark"


def test_a_folder_that_can_t_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="can't be"):
        save_theme("dsv4-light", tmp_path / "file" / "config.toml")


def test_private_files_are_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_private(path, "one")
    write_private(path, "two")
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_file_nested_beyond_reading_is_a_settings_error(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("a = " + "[" * 5000)
    for use in (load_settings, lambda file: save_theme("dsv4-light", file)):
        with pytest.raises(SettingsError, match="nested too deep"):
            use(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[tui]\ntheme = "dark"\n', r"\[tui\] theme must be one of dsv4-dark, dsv4-light, dsv4-contrast"),
        ('[chat]\npermission_mode = "yolo"\n', r"\[chat\] permission_mode must be one of plan, default"),
    ],
)
def test_a_value_that_nothing_has_is_said_with_its_place(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=problem) as caught:
        load_settings(path)
    assert str(path) in str(caught.value)
