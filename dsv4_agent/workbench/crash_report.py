"""What is kept of an internal error: where it happened, never what was in the variables."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import tempfile
import time
import traceback
from pathlib import Path

from dsv4_agent.version import __version__


def write_crash_report(error: BaseException) -> Path | None:
    """Save type, message and stack of `error`; None where nothing can be written."""
    frames = "".join(traceback.format_exception(error))
    text = f"dsv4 {__version__}, Python {platform.python_version()}, {platform.platform()}\n\n{frames}"
    for folder in _folders():
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            name = f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
            handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
                file.write(text)
            return folder / name
    return None


class CrashLog(logging.Handler):
    """Keeps exceptions that inner layers logged and survived as reports instead of printing them."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.report: Path | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and (error := record.exc_info[1]) is not None:
            self.report = write_crash_report(error) or self.report


def _folders() -> tuple[Path, ...]:
    from dsv4_agent.session.session import state_directory

    return state_directory() / "crashes", Path(tempfile.gettempdir()) / f"dsv4-crashes-{os.getuid()}"
