from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dsv4_agent.headless.atomic_file import require_writable, write_atomically
from dsv4_agent.headless.conclusion import failed
from dsv4_agent.headless.summary import markdown
from dsv4_agent.loop.events import Subtype
from dsv4_agent.workbench.exit_codes import OwnSubtype
from dsv4_agent.workbench.failures import RunFailure


def test_a_file_is_replaced_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    target = tmp_path / "t"
    target.write_text("old")
    target.chmod(0o640)
    write_atomically(target, b"new")
    assert target.read_bytes() == b"new" and target.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"


def test_a_device_is_written_into() -> None:
    write_atomically(Path(os.devnull), b"gone")
    with pytest.raises(RunFailure, match="No space left"):
        write_atomically(Path("/dev/full"), b"x")


def test_the_file_behind_an_open_stream_is_not_replaced(tmp_path: Path) -> None:
    """`-o /dev/stderr 2>log` must not cost the log."""
    log = tmp_path / "log"
    with log.open("wb") as stream:
        stream.write(b"before\n")
        stream.flush()
        write_atomically(Path(f"/dev/fd/{stream.fileno()}"), b"last\n")
    assert log.read_bytes() == b"before\nlast\n"


def test_claimed_standard_output_is_no_place_for_a_report() -> None:
    for name in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        with pytest.raises(RunFailure, match="taken by the answer") as caught:
            require_writable(Path(name), "--patch", claimed=True)
        assert caught.value.code == 42
        require_writable(Path(name), "--report")


def test_unusable_paths_are_refused_before_the_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "file"):
        with pytest.raises(RunFailure) as caught:
            require_writable(path, "--patch")
        assert caught.value.code == 42
    require_writable(tmp_path / "new", "--patch")


def test_the_summary_keeps_foreign_text_in_fences() -> None:
    result: dict[str, Any] = failed(RunFailure(OwnSubtype.TOOLS, "broken"), "id")
    result |= {"result": "```\n# not a heading\x1b[2J\n```", "files_changed": ["a\nb"]}
    page = markdown(result)
    assert "### dsv4: `error_tools` (exit 54)" in page
    assert "````text\n```\n# not a heading\\x1b[2J\n```\n````" in page
    assert "a\\x0ab" in page


def test_a_failure_is_one_line() -> None:
    failure = RunFailure(Subtype.INPUT, "several\nlines", "do\n this")
    assert failure.line() == "several lines. do this"
    assert failed(failure, "s")["exit_code"] == 42
