"""One way to read and to change config.toml: one program at a time, and only what is to change."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from dsv4_agent.workbench.private_file import write_private
from dsv4_agent.workbench.settings_error import SettingsError

_PATIENCE: Final = 5.0
"""Seconds that another program's change may take; one that was stopped in it must not stop us."""


def read_config(path: Path) -> str:
    """The text, line ends as they are, without the mark that some editors put first.

    Raises `OSError`, `UnicodeDecodeError`.
    """
    return path.read_bytes().decode("utf-8-sig")


def change_config(path: Path, edit: Callable[[Any], None]) -> None:
    """Let `edit` change the document (tomlkit's); comments, order and all else stay as the user wrote them.

    A file that is a link (of who keeps settings in a repository) stays one. Raises `SettingsError`, also that
    of `edit`; the file is then as it was.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        place = Path(os.path.realpath(path))
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _alone(place.parent):
            document = tomlkit.parse(read_config(place)) if place.exists() else tomlkit.document()
            edit(document)
            text = tomlkit.dumps(document)
            tomllib.loads(text)
            write_private(place, text)
    except (OSError, ValueError, TOMLKitError) as error:
        raise SettingsError(f"{path} can't be written: {error}") from error
    except RecursionError as error:
        raise SettingsError(f"{path} can't be read: it is nested too deep; mend or remove it") from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While no other dsv4 changes a file of this folder, or its change would be lost."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.02)
                continue
            except OSError:
                pass  # a file system without locks
            break
        yield
    finally:
        os.close(descriptor)
