from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest

from dsv4_agent.chat.editor import edit_text, editor_command


def editor(folder: Path, script: str) -> dict[str, str]:
    """An environment whose editor is a shell script; the file is `$1`, or `$2` after an option."""
    path = folder / "my editor"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"VISUAL": f"'{path}'", "PATH": os.environ["PATH"], "TMPDIR": str(folder)}


def test_the_new_text_comes_back_without_the_end_of_line_editors_add(tmp_path: Path) -> None:
    environment = editor(tmp_path, 'printf "%s and more\\n" "$(cat "$1")" > "$1"')
    assert edit_text("draft", environment=environment).text == "draft and more"


def test_the_file_is_private_markdown_and_removed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    environment = editor(tmp_path, f'stat -c "%a %n" "$1" > {log}; touch "$1.swp"')
    assert edit_text("x", environment=environment).text == "x"
    mode, name = log.read_text().split()
    assert mode == "600" and name.endswith(".md")
    assert not Path(name).parent.exists()


def test_an_editor_that_replaces_the_file_is_understood(tmp_path: Path) -> None:
    environment = editor(tmp_path, 'printf "new" > "$1.tmp"; mv "$1.tmp" "$1"')
    assert edit_text("old", environment=environment).text == "new"


def test_arguments_of_the_editor_are_kept(tmp_path: Path) -> None:
    environment = editor(tmp_path, 'printf "%s" "$1" > "$2"')
    environment["VISUAL"] += " --wait"
    assert edit_text("x", environment=environment).text == "--wait"


@pytest.mark.parametrize(
    ("script", "part"), [("exit 3", "exit code 3"), ("kill -9 $$", "signal 9"), ('rm "$1"', "can't be read")]
)
def test_a_failure_is_told(tmp_path: Path, script: str, part: str) -> None:
    edited = edit_text("x", environment=editor(tmp_path, script))
    assert edited.text is None and edited.error is not None and part in edited.error


def test_an_interrupt_is_for_the_editor(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    environment = editor(tmp_path, 'kill -INT $PPID; printf "survived" > "$1"')
    assert edit_text("x", environment=environment).text == "survived"
    assert signal.getsignal(signal.SIGINT) is before


def test_text_that_is_not_utf8_still_comes_back(tmp_path: Path) -> None:
    assert edit_text("", environment=editor(tmp_path, 'printf "a\\377b" > "$1"')).text == "a\ufffdb"


def test_which_editor(tmp_path: Path) -> None:
    for name in ("nano", "vi", "mine"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    path = {"PATH": str(tmp_path)}
    assert editor_command({**path, "VISUAL": "mine -w", "EDITOR": "vi"}) == ["mine", "-w"]
    assert editor_command({**path, "VISUAL": " ", "EDITOR": "vi"}) == ["vi"]
    assert editor_command(path) == ["nano"]
    assert "can't be found" in editor_command({**path, "EDITOR": "gone"})
    assert "can't be read" in editor_command({**path, "EDITOR": "'open"})
    assert "No editor" in editor_command({"PATH": str(tmp_path / "none")})


def test_the_mode_survives_a_lax_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        edited = edit_text("x", environment=editor(tmp_path, 'stat -c %a "$1" > "$1.m"; mv "$1.m" "$1"'))
    finally:
        os.umask(old)
    assert edited.text == "600" and stat.S_IMODE(0o600) == 0o600
