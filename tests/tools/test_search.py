"""grep and glob, and that both engines say the same."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_tools import search
from dsv4_tools.base import ToolContext
from dsv4_tools.grep import Grep, GrepArgs
from dsv4_tools.patterns import _ends, compile_glob
from tests.tools.conftest import Call

NO_RIPGREP = "/nowhere"


@pytest.fixture
def tree(root: Path) -> Path:
    files = {
        "a.txt": "alpha\nbeta alpha\n",
        "a/b.py": "def alpha():\n    return 'x'\n",
        "a/z.txt": "ALPHA\r\nalpha\r\n",
        ".github/ci.yml": "run: alpha\n",
        "build/out.txt": "alpha\n",
        "keep.log": "alpha\n",
        "drop.log": "alpha\n",
        "sub/.gitignore": "!drop.log\nlocal.*\n",
        "sub/drop.log": "alpha\n",
        "sub/local.cfg": "alpha\n",
        ".git/config": "alpha\n",
        ".gitignore": "build/\n*.log\n!keep.log\n",
        "-rf": "alpha\n",
        "sp ace/ü.md": "\ufeffalpha\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode())
    (root / "bin.dat").write_bytes(b"alpha\0alpha\n")
    (root / "late.dat").write_bytes(b"alpha\n" + b"x" * 100_000 + b"\0")
    (root / "latin.txt").write_bytes(b"alpha caf\xe9\n")
    (root / "u16.txt").write_bytes("alpha ü\n".encode("utf-16"))
    (root / "link.txt").symlink_to("a.txt")
    (root / "up").symlink_to("..")
    return root


EXPECTED = [
    "-rf:1:alpha",
    ".github/ci.yml:1:run: alpha",
    "a.txt:1:alpha",
    "a.txt:2:beta alpha",
    "a/b.py:1:def alpha():",
    "a/z.txt:2:alpha",
    "keep.log:1:alpha",
    "latin.txt:1:alpha caf\ufffd",
    "sp ace/ü.md:1:alpha",
    "sub/drop.log:1:alpha",
    "u16.txt:1:alpha ü",
]


async def test_grep_finds_what_is_worth_finding(call: Call, tree: Path) -> None:
    assert (await call("grep", pattern="alpha", path_env=NO_RIPGREP)).text.split("\n") == EXPECTED


@pytest.mark.parametrize(
    "arguments",
    [
        {"pattern": "alpha"},
        {"pattern": "^alpha$"},
        {"pattern": r"\balpha\b.*\)"},
        {"pattern": "alpha()", "literal": True},
        {"pattern": "-rf"},
        {"pattern": "--files"},
        {"pattern": "alpha", "path": "a"},
        {"pattern": "alpha", "path": "build"},
        {"pattern": "alpha", "path": "build/out.txt"},
        {"pattern": "alpha", "path": "bin.dat"},
        {"pattern": "alpha", "glob": "*.txt"},
        {"pattern": "alpha", "glob": "a/**/*.txt"},
        {"pattern": "b.py", "path": "a", "glob": "b.*"},
        {"pattern": "alpha", "max_results": 3},
        {"pattern": "(?<=beta )alpha"},
        {"pattern": "(?i)alpha"},
        {"pattern": "("},
        {"pattern": "no such text"},
    ],
)
@pytest.mark.skipif(shutil.which("rg") is None, reason="ripgrep is not installed")
async def test_both_engines_agree(call: Call, tree: Path, arguments: dict[str, object]) -> None:
    with_python = await call("grep", path_env=NO_RIPGREP, **arguments)
    with_ripgrep = await call("grep", path_env=os.environ["PATH"], **arguments)
    assert with_ripgrep == with_python


async def test_grep_texts(call: Call, tree: Path) -> None:
    assert (await call("grep", pattern="zzz")).text == "No matches."
    cut = await call("grep", pattern="alpha", max_results=2)
    assert cut.text.split("\n") == [*EXPECTED[:2], "[2 of 11 matches shown]"]
    assert cut.truncated
    assert (await call("grep", pattern="x", path="nope")).text == "Error: nope does not exist."
    assert (await call("grep", pattern="x", path="..")).text == "Error: .. is outside the workspace."
    assert (await call("grep", pattern="")).text == "Error: pattern is empty."
    assert "newline" in (await call("grep", pattern="a\nb")).text
    assert "invalid regular expression" in (await call("grep", pattern="a(")).text
    assert (await call("grep", pattern="a(", literal=True)).text == "a/b.py:1:def alpha():"
    assert "belongs to Git" in (await call("grep", pattern="x", path=".git/config")).text


async def test_a_runaway_pattern_is_stopped(call: Call, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SECONDS", 1.0)
    (root / "a").write_text("a" * 60 + "b\n")
    result = await call("grep", pattern="(a+)+$", path_env=NO_RIPGREP)
    assert result.text.startswith("Error: the search took longer than 1 s")


async def test_output_is_clean_and_bounded(call: Call, root: Path) -> None:
    (root / "a").write_text("x\x1b[31m" + "y" * 3_000 + "\n")
    assert (await call("grep", pattern="x")).text == "a:1:x" + "y" * 499 + " [... line cut]"


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.txt", ".", ["a.txt", "latin.txt", "u16.txt"]),
        ("**/*.txt", ".", ["a.txt", "a/z.txt", "latin.txt", "u16.txt"]),
        ("*.py", "a", ["a/b.py"]),
        ("**/*.{py,yml}", ".", [".github/ci.yml", "a/b.py"]),
        ("sub/**", ".", ["sub/.gitignore", "sub/drop.log"]),
        ("*/[bz].*", ".", ["a/b.py", "a/z.txt"]),
        ("out*", "build", ["build/out.txt"]),
        ("nothing*", ".", ["No files match."]),
        ("link.txt", ".", ["No files match."]),
    ],
)
async def test_glob(call: Call, tree: Path, pattern: str, path: str, expected: list[str]) -> None:
    assert (await call("glob", pattern=pattern, path=path)).text.split("\n") == expected


async def test_glob_errors(call: Call, tree: Path) -> None:
    assert (await call("glob", pattern="*", path="nope")).text == "Error: nope does not exist."
    assert (await call("glob", pattern="*", path="a.txt")).text == "Error: a.txt is not a directory."
    assert "leaves the folder" in (await call("glob", pattern="../*")).text
    assert "not closed" in (await call("glob", pattern="[a")).text
    assert "not closed" in (await call("glob", pattern="{a,b")).text


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.py", ["a.py", ".py"], ["a/b.py", "a.pyc"]),
        ("**/*.py", ["a.py", "x/y/a.py"], ["a.pyx"]),
        ("a/**/b", ["a/b", "a/x/y/b"], ["a/xb", "ab"]),
        ("a?c", ["abc"], ["a/c", "ac"]),
        ("[!a]b", ["xb"], ["ab", "/b"]),
        ("{a,b/c}.t", ["a.t", "b/c.t"], ["b.t"]),
        ("a+(b).t", ["a+(b).t"], ["aab.t"]),
        (r"\*.t", ["*.t"], ["a.t"]),
    ],
)
def test_glob_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    wanted = compile_glob(pattern)
    assert all(wanted.matches(name) for name in yes)
    assert not any(wanted.matches(name) for name in no)


async def test_the_workers_helpers_are_not_shadowed(call: Call, root: Path) -> None:
    (root / "json.py").write_text("raise SystemExit('shadowed')\n")
    assert (await call("grep", pattern="shadowed", path_env=NO_RIPGREP)).text.startswith("json.py:1:")


async def test_cancelling_ends_the_search(context: ToolContext, root: Path) -> None:
    (root / "a").write_text("a" * 60 + "b\n")
    python_only = replace(context, environment={"PATH": NO_RIPGREP})
    task = asyncio.create_task(Grep().run(GrepArgs(pattern="(a+)+$"), python_only))
    await asyncio.sleep(0.5)
    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while any(thread.name.startswith("asyncio") and _busy(thread) for thread in threading.enumerate()):
        await asyncio.sleep(0.02)
    assert time.monotonic() - started < 5


def _busy(thread: threading.Thread) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_code.co_name == "_grep":
            return True
        frame = frame.f_back
    return False


async def test_names_with_control_characters_are_escaped(call: Call, root: Path) -> None:
    (root / "a\x1b[2J\nb").write_text("text\n")
    (root / os.fsdecode(b"\xff")).write_text("text\n")
    assert (await call("glob", pattern="*")).text == "a\\x1b[2J\\nb\n\\udcff"
    assert (await call("grep", pattern="text", path_env=NO_RIPGREP)).text.startswith("a\\x1b[2J\\nb:1:text")


@settings(max_examples=500, deadline=None)
@given(
    st.lists(
        st.sampled_from(["*", "**", "**/", "/", "a", "b", "?", "[!a]", "{a,*}", "{**/a,b/}"]), max_size=7
    ),
    st.text("ab/.", max_size=8),
)
def test_both_matchers_of_globs_agree(parts: list[str], path: str) -> None:
    wanted = compile_glob("".join(parts))
    assert (wanted.regex.fullmatch(path) is not None) == (len(path) in _ends(wanted.tokens, path, {0}))


def test_no_glob_takes_for_ever() -> None:
    # With a regular expression each of these outlasts the universe, and holds the interpreter meanwhile.
    assert not compile_glob("*a" * 30 + "b").matches("a" * 200)
    assert not compile_glob("**/" * 12 + "x").matches("d/" * 1000 + "y")
    assert not compile_glob("{*,*a}" * 20).matches("a" * 200 + "/")


async def test_a_tree_deeper_than_python_may_recurse(call: Call, root: Path) -> None:
    folder = os.open(root, os.O_RDONLY)
    for _ in range(1_100):
        os.mkdir("d", dir_fd=folder)
        inner = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(os.open("deep.txt", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    (root / "x.txt").write_text("x\n")
    try:
        assert (await call("glob", pattern="**/*.txt")).text == "d/" * 1_100 + "deep.txt\nx.txt"
    finally:  # what clears up after tests recurses as well
        subprocess.run(["rm", "-rf", root / "d"], check=True)
