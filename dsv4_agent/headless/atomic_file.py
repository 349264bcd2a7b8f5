"""Write a report file whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Final

from dsv4_agent.loop.events import Subtype
from dsv4_agent.workbench.exit_codes import OwnSubtype
from dsv4_agent.workbench.failures import RunFailure

_STREAMS: Final = ("/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/self/fd/")
_OUTPUTS: Final = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data` through a temporary file beside it. Raises `RunFailure` (54).

    An open stream, a pipe or a device is written into: there is nothing to rename over, and what an open
    stream leads to, a log as it may be, would be lost.
    """
    try:
        if str(path.absolute()).startswith(_STREAMS) or (path.exists() and not path.is_file()):
            with path.open("ab") as stream:
                stream.write(data)
            return
        target = path.resolve()  # keep a symbolic link a link
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            mask = os.umask(0)
            os.umask(mask)
            Path(name).chmod(target.stat().st_mode & 0o7777 if target.exists() else 0o666 & ~mask)
            Path(name).replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        cause = f"{path} can't be written: {error.strerror}"
        raise RunFailure(OwnSubtype.TOOLS, cause, "Check the path and free space.") from error


def require_writable(path: Path, option: str, *, claimed: bool = False) -> None:
    """Refuse a report path that can't work before the model is asked. Raises `RunFailure` (42).

    Where stdout is `claimed`, its name leads to stderr: a report would go there unnoticed.
    """
    if claimed and str(path.absolute()) in _OUTPUTS:
        cause = f"{option}: {path} is taken by the answer or the events"
        raise RunFailure(Subtype.INPUT, cause, "Name a file.")
    parent = path.parent
    if path.is_dir() or not parent.is_dir() or not os.access(path if path.exists() else parent, os.W_OK):
        raise RunFailure(
            Subtype.INPUT, f"{option}: {path} can't be written", "Name a file in a writable directory."
        )
