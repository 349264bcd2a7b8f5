"""Where the task comes from: argument, file, standard input; and what keeps an open pipe from hanging a run.

That hang fills other agents' trackers. So: a regular file or a closed pipe is read; an open pipe that stays
silent gets a notice after 3 s, and beside a prompt argument the run goes on without it after 10 s.
"""

from __future__ import annotations

import os
import select
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dsv4_agent.loop.events import Subtype
from dsv4_agent.workbench.failures import RunFailure

STDIN_LIMIT: Final = 10 * 1024 * 1024  # bytes; F1 says 10 MB
NOTICE_AFTER: Final = 3.0  # seconds
GIVE_UP_AFTER: Final = 10.0  # seconds
_BLOCK: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class PromptSource:
    """What the command line said: at most one of `text` (`-` = standard input) and `file`."""

    text: str | None
    file: Path | None


def read_prompt(source: PromptSource, notify: Callable[[str], None], stdin: int = 0) -> str:
    """The task, with piped data appended as a `<stdin>` block. Raises `RunFailure` (42)."""
    if source.text is not None and source.file is not None:
        raise _bad("both a prompt and --prompt-file were given", "Give one of them.")
    if source.text is not None and source.text != "-":
        prompt: str | None = _checked_argument(source.text)
    elif source.file is not None:
        prompt = _read_file(source.file)
    else:
        prompt = None

    if prompt is None:
        if source.text is None and _is_terminal(stdin):
            raise _bad("no prompt was given", "Pass an argument, --prompt-file FILE, or stdin.")
        data = read_stdin(stdin, notify, give_up_after=None)
        prompt = _decode(data or b"", "stdin")
        piped = ""
    else:
        if not prompt.strip():
            raise _empty()
        data = None if _is_terminal(stdin) else read_stdin(stdin, notify, give_up_after=GIVE_UP_AFTER)
        piped = (data or b"").decode("utf-8", errors="replace")
    if not prompt.strip():
        raise _empty()
    if not piped.strip():
        return prompt
    end = "" if piped.endswith("\n") else "\n"
    return f"{prompt}\n\n<stdin>\n{piped}{end}</stdin>"


def read_stdin(fd: int, notify: Callable[[str], None], *, give_up_after: float | None) -> bytes | None:
    """All of `fd`; None where it is closed or silent for `give_up_after` seconds (None: wait for ever)."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError:  # started with stdin closed
        return None
    waits = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)
    started, noticed = time.monotonic(), os.isatty(fd)
    parts: list[bytes] = []
    size = 0
    while True:
        if waits and not select.select([fd], [], [], 0.1)[0]:
            silent = time.monotonic() - started
            if not noticed and silent >= NOTICE_AFTER:
                noticed = True
                notify("waiting for stdin (use </dev/null)")
            if give_up_after is not None and not parts and silent >= give_up_after:
                notify(f"no data on stdin for {give_up_after:.0f} s: going on without it")
                return None
            continue
        try:
            block = os.read(fd, _BLOCK)
        except OSError as error:  # e.g. a directory, or a background job reading its terminal
            raise _bad(f"stdin can't be read: {error.strerror}", "Use </dev/null or a file.") from error
        if not block:
            return b"".join(parts)
        parts.append(block)
        size += len(block)
        started = time.monotonic()
        if size > STDIN_LIMIT:
            raise _bad("stdin is larger than 10 MB", "Save it as a file and name that in the prompt.")


def _read_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(STDIN_LIMIT + 1)
    except OSError as error:
        raise _bad(f"the prompt file {path} can't be read: {error.strerror}", "Check the path.") from error
    if len(data) > STDIN_LIMIT:
        raise _bad(f"the prompt file {path} is larger than 10 MB", "Name the data's file in a short prompt.")
    return _decode(data, f"the prompt file {path}")


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _bad(f"{name} is not valid UTF-8 (byte {error.start})", "Convert it to UTF-8.") from error


def _checked_argument(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # bytes in argv that are not UTF-8 arrive as lone surrogates
        raise _bad("the prompt is not valid UTF-8", "Convert it to UTF-8.") from error
    return text


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False


def _bad(cause: str, remedy: str) -> RunFailure:
    return RunFailure(Subtype.INPUT, cause, remedy)


def _empty() -> RunFailure:
    return _bad("the prompt is empty", "Say what is to be done.")
