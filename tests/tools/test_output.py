from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsv4_tools.output import OutputBuffer, bounded, plain


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]52;c;AAAA\x1b\\x", "x"),
        ("\x1b]8;;http://e\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPdcs\x1b\\\x1b_apc\x1b\\x", "x"),
        ("\x9b31mx\x9d0;t\x07y", "xy"),
        ("\x1b[2J\x1b[1;1H\x1b7\x1b(Bx\x1bc", "x"),
        ("10%\r50%\r100%\r\ndone\r\n", "100%\ndone\n"),
        ("b\bbo\bold", "bold"),
        ("a\tb\x00\x07\x7f", "a\tb"),
        ("\x1b]unfinished\nnext", "\nnext"),
    ],
)
def test_terminal_control_is_gone(raw: str, clean: str) -> None:
    assert plain(raw) == clean


@given(st.text(alphabet="a\n\r\t\b\x00\x07\x1b[]0;m\\\x9b\x9d\ud800\u202e"))
def test_nothing_that_a_terminal_acts_on_survives(text: str) -> None:
    clean = plain(text)
    assert not any((c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f" for c in clean)
    clean.encode()


@given(st.lists(st.binary(max_size=40), max_size=30))
def test_chunks_do_not_matter(chunks: list[bytes]) -> None:
    whole, pieces = OutputBuffer(Path("unused"), "x"), OutputBuffer(Path("unused"), "x")
    whole.feed(b"".join(chunks))
    for chunk in chunks:
        pieces.feed(chunk)
    assert whole.finish() == pieces.finish()


def test_long_output_keeps_head_and_tail(tmp_path: Path) -> None:
    text = "".join(f"line {n}\n" for n in range(10_000))
    kept = bounded(text, tmp_path / "spill", "shell")
    assert kept.path is not None
    assert kept.path.read_text() == text
    assert kept.path.stat().st_mode & 0o777 == 0o600
    head, _, rest = kept.text.partition(
        f"[... {kept.omitted} characters omitted; full output in {kept.path}]"
    )
    assert head.startswith("line 0\n")
    assert rest.endswith("line 9999")
    assert kept.omitted == len(text) - 30_000


def test_memory_stays_flat_without_newlines(tmp_path: Path) -> None:
    buffer = OutputBuffer(tmp_path, "x", limit=1_000)
    for _ in range(100):
        buffer.feed(b"y" * 10_000)
    assert sum(len(part) for part in (buffer._head, buffer._tail, buffer._pending)) < 70_000
    assert len(buffer.finish().text) < 1_300


def test_output_that_cannot_be_spilled_is_still_shown(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    kept = bounded("z" * 40_000, tmp_path / "file" / "sub", "x")
    assert kept.path is None
    assert "could not be kept" in kept.text


def test_hostile_backspaces_cost_one_pass() -> None:
    assert plain("a" * 200_000 + "\b" * 200_000 + "x") == "x"
