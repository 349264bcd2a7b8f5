"""read and write: the frozen texts, the guards."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsv4_tools.text import changed_lines
from tests.tools.conftest import Call


async def test_read_numbers_lines(call: Call, root: Path) -> None:
    (root / "a.py").write_text("one\n\n\tthree")
    assert (await call("read", path="a.py")).text == "1\tone\n2\t\n3\t\tthree"


async def test_read_pages(call: Call, root: Path) -> None:
    (root / "a").write_text("".join(f"l{n}\n" for n in range(1, 8)))
    page = await call("read", path="a", offset=2, limit=3)
    assert page.text == "2\tl2\n3\tl3\n4\tl4\n[lines 2-4 of 7; continue with offset=5]"
    assert page.truncated
    assert (await call("read", path="a", offset=6)).text == "6\tl6\n7\tl7"
    assert (await call("read", path="a", offset=9)).text == "Error: offset 9 is past the end of a (7 lines)."


async def test_read_empty_missing_folder_binary(call: Call, root: Path) -> None:
    (root / "empty").write_bytes(b"")
    (root / "bin").write_bytes(b"\x7fELF\0")
    (root / "dir").mkdir()
    assert (await call("read", path="empty")).text == "(empty file)"
    assert (await call("read", path="nope")).text == "Error: nope does not exist."
    assert (await call("read", path="dir")).text == "Error: dir is a directory."
    assert (await call("read", path="bin")).text == "Error: bin is a binary file (5 bytes)."


async def test_read_only_newlines_end_lines(call: Call, root: Path) -> None:
    (root / "a").write_bytes("x\u2028y\x0cz\x85\r\nnext\r\n".encode())
    assert (await call("read", path="a")).text == "1\tx\u2028y\x0cz\x85\n2\tnext"


async def test_read_shows_broken_utf8_and_says_so(call: Call, root: Path) -> None:
    (root / "a").write_bytes(b"\xef\xbb\xbfcaf\xe9\n")
    text = (await call("read", path="a")).text
    assert text.split("\n")[0] == "1\tcaf\ufffd"
    assert "not valid UTF-8" in text.split("\n")[1]


async def test_read_cuts_long_lines_and_long_pages(call: Call, root: Path) -> None:
    (root / "long").write_text("x" * 2_100)
    assert (await call("read", path="long")).text == "1\t" + "x" * 2_000 + " [... 100 more characters]"
    (root / "wide").write_text(("y" * 999 + "\n") * 500)
    page = await call("read", path="wide")
    assert len(page.text) < 101_000
    assert page.text.endswith("of 500; continue with offset=100]")


async def test_read_wants_a_range_for_large_files(call: Call, root: Path) -> None:
    (root / "big").write_text("0123456789\n" * 200_000)
    assert "give offset and limit" in (await call("read", path="big")).text
    page = (await call("read", path="big", offset=150_000, limit=1)).text
    assert page.startswith("150000\t0123456789\n[lines 150000-150000 of 200000;")


async def test_read_may_open_spilled_output(call: Call, tmp_path: Path) -> None:
    (tmp_path / "spill").mkdir()
    (tmp_path / "spill" / "o.txt").write_text("kept")
    assert (await call("read", path=str(tmp_path / "spill" / "o.txt"))).text == "1\tkept"
    assert "outside" in (await call("write", path=str(tmp_path / "spill" / "o.txt"), content="")).text


@pytest.mark.parametrize(
    ("content", "count"),
    [("", "0 lines"), ("a", "1 line"), ("a\n", "1 line"), ("a\nb", "2 lines"), ("a\n\n", "2 lines")],
)
async def test_write_counts_lines(call: Call, root: Path, content: str, count: str) -> None:
    assert (await call("write", path="d/n.txt", content=content)).text == f"Created d/n.txt ({count})."
    assert (await call("write", path="d/n.txt", content=content)).text == f"Wrote d/n.txt ({count})."
    assert (root / "d" / "n.txt").read_bytes() == content.encode()


async def test_write_reports_changed_lines(call: Call, root: Path) -> None:
    (root / "a").write_text("1\n2\n3\n")
    (change,) = (await call("write", path="a", content="1\nx\ny\n3\n")).changes
    assert (change.path, change.kind, change.added, change.removed) == ("a", "update", 2, 1)


async def test_write_refuses_what_is_not_text(call: Call, root: Path) -> None:
    assert "lone surrogate" in (await call("write", path="a", content="\ud800")).text
    (root / "d").mkdir()
    assert (await call("write", path="d", content="x")).text == "Error: d is a directory."
    assert (await call("write", path="n/", content="x")).text == "Error: n/ is a directory."
    assert not (root / "a").exists()


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("", "one", (1, 0)),
        ("", "a\nb\n", (2, 0)),
        ("a", "a\n", (1, 1)),
        ("a\nb\n", "", (0, 2)),
        ("x\x0cy", "x", (1, 1)),
    ],
)
def test_changed_lines(old: str, new: str, counts: tuple[int, int]) -> None:
    assert changed_lines(old, new) == counts
