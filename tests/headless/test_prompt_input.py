from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dsv4_agent.headless import prompt_input
from dsv4_agent.headless.prompt_input import STDIN_LIMIT, PromptSource, read_prompt
from dsv4_agent.workbench.failures import RunFailure


@contextmanager
def stdin_from(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def ask(text: str | None = None, file: Path | None = None, stdin: int | None = None) -> str:
    notes: list[str] = []
    if stdin is not None:
        return read_prompt(PromptSource(text, file), notes.append, stdin)
    with stdin_from(Path(os.devnull)) as fd:
        return read_prompt(PromptSource(text, file), notes.append, fd)


def refused(text: str | None = None, file: Path | None = None, stdin: int | None = None) -> RunFailure:
    with pytest.raises(RunFailure) as caught:
        ask(text, file, stdin)
    assert caught.value.code == 42
    assert caught.value.remedy
    return caught.value


def test_the_argument_alone() -> None:
    assert ask("do it") == "do it"


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_prompt_is_refused(text: str) -> None:
    assert "empty" in refused(text).cause


def test_piped_data_is_appended(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("line 1\nline 2")
    with stdin_from(tmp_path / "in") as fd:
        assert ask("explain", stdin=fd) == "explain\n\n<stdin>\nline 1\nline 2\n</stdin>"


@pytest.mark.parametrize("text", ["-", None])
def test_stdin_is_the_prompt(tmp_path: Path, text: str | None) -> None:
    (tmp_path / "in").write_text("from a file\n")
    with stdin_from(tmp_path / "in") as fd:
        assert ask(text, stdin=fd) == "from a file\n"


def test_empty_stdin_as_prompt_is_refused() -> None:
    assert "empty" in refused("-").cause


def test_the_prompt_file(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("größer", encoding="utf-8")
    assert ask(file=tmp_path / "p") == "größer"


def test_a_prompt_file_of_invalid_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"ab\xff\xfe")
    assert "byte 2" in refused(file=tmp_path / "p").cause


def test_a_missing_prompt_file_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(file=tmp_path / "p").cause


def test_two_prompts_are_refused(tmp_path: Path) -> None:
    assert "both" in refused("x", tmp_path / "p").cause


def test_an_argument_of_invalid_utf8_is_refused() -> None:
    assert "UTF-8" in refused("caf\udce9").cause


def test_too_much_stdin_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "in").open("wb") as file:
        file.truncate(STDIN_LIMIT + 1)
    with stdin_from(tmp_path / "in") as fd:
        assert "10 MB" in refused("x", stdin=fd).cause


def test_exactly_the_limit_is_taken(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"a" * STDIN_LIMIT)
    with stdin_from(tmp_path / "in") as fd:
        assert len(ask("-", stdin=fd)) == STDIN_LIMIT


def test_garbage_beside_a_prompt_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"log \xff\n")
    with stdin_from(tmp_path / "in") as fd:
        assert ask("explain", stdin=fd).endswith("<stdin>\nlog \ufffd\n</stdin>")


def test_a_closed_pipe_is_read() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"data")
    os.close(writer)
    assert ask("x", stdin=reader) == "x\n\n<stdin>\ndata\n</stdin>"
    os.close(reader)


def test_a_closed_stdin_is_no_data() -> None:
    reader, writer = os.pipe()
    os.close(writer)
    os.close(reader)
    assert ask("x", stdin=reader) == "x"


def test_an_open_silent_pipe_is_announced_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_input, "NOTICE_AFTER", 0.1)
    monkeypatch.setattr(prompt_input, "GIVE_UP_AFTER", 0.3)
    reader, writer = os.pipe()
    notes: list[str] = []
    started = time.monotonic()
    assert read_prompt(PromptSource("x", None), notes.append, reader) == "x"
    assert time.monotonic() - started >= 0.3
    assert notes[0] == "waiting for stdin (use </dev/null)"
    assert "without it" in notes[1]
    os.close(reader)
    os.close(writer)


def test_a_slow_pipe_that_delivers_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_input, "NOTICE_AFTER", 0.1)
    monkeypatch.setattr(prompt_input, "GIVE_UP_AFTER", 0.5)
    reader, writer = os.pipe()

    def deliver() -> None:
        os.write(writer, b"one ")
        time.sleep(0.8)  # longer than the patience for silence: data has begun, so it is waited for
        os.write(writer, b"two")
        os.close(writer)

    thread = threading.Thread(target=deliver)
    thread.start()
    assert ask("x", stdin=reader) == "x\n\n<stdin>\none two\n</stdin>"
    thread.join()
    os.close(reader)
