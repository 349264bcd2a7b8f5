"""The shared list of hostile inputs, where it concerns tools: each case here has its own check."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.fixtures_path import SHARED
from tests.tools.conftest import Call, Git

CASES = SHARED / "adversarial" / "cases.jsonl" if SHARED else None
pytestmark = pytest.mark.skipif(CASES is None or not CASES.is_file(), reason="the shared fixtures are absent")


def case(number: str) -> str:
    assert CASES is not None
    for line in CASES.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["id"] == number:
            return str(entry["input"])
    raise LookupError(number)


async def refused(call: Call, path: str) -> None:
    for tool, arguments in (
        ("read", {}),
        ("write", {"content": "x"}),
        ("edit", {"old_string": "a", "new_string": "b"}),
        ("grep", {"pattern": "x"}),
        ("glob", {"pattern": "*"}),
    ):
        assert (await call(tool, path=path, **arguments)).text == f"Error: {path} is outside the workspace."


async def test_pa01_traversal(call: Call) -> None:
    for path in case("PA01").split(" ; "):
        await refused(call, path)


async def test_pa02_prefix(call: Call, root: Path) -> None:
    assert "-evil" in case("PA02")
    sibling = root.with_name(f"{root.name}-evil")
    sibling.mkdir()
    await refused(call, str(sibling / "x"))


async def test_pa08_protected_names(call: Call, git: Git, root: Path) -> None:
    before = sorted(root.rglob("*"))
    for path in case("PA08").split(" ; ")[:3]:
        spelt = path.strip().replace("\\u200c", "\u200c")
        assert "belongs to Git" in (await call("write", path=spelt, content="x")).text
    assert sorted(root.rglob("*")) == before


async def test_pa14_special_files(call: Call, root: Path) -> None:
    assert "FIFO" in case("PA14")
    os.mkfifo(root / "fifo")
    assert (await call("read", path="fifo")).text == "Error: fifo is not a regular file."
    for path in ("/dev/zero", "/dev/random", "/proc/kmsg"):
        await refused(call, path)
    with (root / "huge").open("wb") as file:
        file.truncate(10_000_000_000)
    assert "large" in (await call("read", path="huge")).text
    assert "too large" in (await call("read", path="huge", offset=1, limit=1)).text
    assert "too large" in (await call("edit", path="huge", old_string="a", new_string="b")).text
    assert (await call("grep", pattern="x")).text == "No matches."


async def test_ro11_process_environment(call: Call) -> None:
    for path in ("/proc/self/environ", f"/proc/{os.getppid()}/environ", "/proc/self/root/etc/passwd"):
        await refused(call, path)


async def test_ro02_ripgrep_of_the_repository(call: Call, root: Path, tmp_path: Path) -> None:
    assert "./rg" in case("RO02")
    (root / "rg").write_text(f"#!/bin/sh\ntouch '{tmp_path}/PWNED'\n")
    (root / "rg").chmod(0o755)
    await call("grep", pattern="x", path_env=f".:{root}:/usr/bin:/bin")
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("title", ["b\x1b]0;x\x07ranch", "$(touch${IFS}pwned)"])
async def test_gi20_names_that_are_commands(call: Call, git: Git, root: Path, title: str) -> None:
    (root / "a").write_text("x")
    git("add", "a")
    git("commit", "-qm", title)
    if "\x1b" not in title:
        git("branch", title)
        assert (await call("git_show", revision=title)).text.startswith("commit ")
    assert "\x1b" not in (await call("git_log")).text
    assert not (root / "pwned").exists()


async def test_gi10_output_option(call: Call, git: Git, root: Path) -> None:
    target = root / "stolen"
    for name, arguments in (
        ("git_show", {"revision": f"--output={target}"}),
        ("git_log", {"path": f"--output={target}"}),
        ("git_diff", {"path": f"--output={target}"}),
    ):
        await call(name, **arguments)
    assert not target.exists()


async def test_tu01_terminal_sequences(call: Call) -> None:
    assert "ESC" in case("TU01")
    pieces = (
        r"A\033[2JB\033[1;1HC\033]0;t\007D\033]52;c;eA==\033\\E",
        r"\033]8;;u\007F\033]1337;x\007G\033Pq\033\\H\302\233mI",
    )
    script = f"printf '{''.join(pieces)}'"
    assert (await call("shell", command=script)).text == "ABCDEFGHI\n[exit 0]"


@pytest.mark.parametrize("command", ["yes", "cat /dev/urandom"])
async def test_rc01_floods(call: Call, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    from dsv4_tools import processes

    assert command in case("RC01")
    monkeypatch.setattr(processes, "BYTE_LIMIT", 500_000)
    assert len((await call("shell", command=command, timeout=20)).text) < 31_000


async def test_pa26_bytes_survive(call: Call, root: Path) -> None:
    assert "CRLF" in case("PA26")
    data = b"\xef\xbb\xbfone\r\ntwo\nthr\xc3\xa9e\x0c\xe2\x80\xa8x\rlast"
    (root / "f").write_bytes(data)
    await call("edit", path="f", old_string="two", new_string="2")
    assert (root / "f").read_bytes() == data.replace(b"two", b"2")
    utf16 = "a\n".encode("utf-16")
    (root / "g").write_bytes(utf16)
    assert "binary" in (await call("edit", path="g", old_string="a", new_string="b")).text
    assert (root / "g").read_bytes() == utf16
