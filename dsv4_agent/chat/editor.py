"""Write a prompt in the user's own editor."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FALLBACKS: Final = ("nano", "vi")


@dataclass(frozen=True, slots=True)
class Edited:
    """What the editor left: the text, or why there is none."""

    text: str | None
    error: str | None = None


def edit_text(text: str, *, environment: Mapping[str, str] | None = None) -> Edited:
    """Open `text` in $VISUAL, $EDITOR, nano or vi and wait until that has ended.

    The terminal must be free: call it inside `App.suspend()`. Never raises for what an editor does.
    """
    variables = os.environ if environment is None else environment
    command = editor_command(variables)
    if isinstance(command, str):
        return Edited(None, command)
    try:
        with tempfile.TemporaryDirectory(prefix="dsv4-edit-") as folder:  # private, and swap files go with it
            return _edit_in(Path(folder), text, command, variables)
    except OSError as error:
        return Edited(None, f"The editor could not be used: {error.strerror or error}.")


def editor_command(environment: Mapping[str, str]) -> list[str] | str:
    """The editor and its arguments, or a sentence that says why there is none."""
    for name in ("VISUAL", "EDITOR"):
        value = environment.get(name, "").strip()
        if not value:
            continue
        try:
            command = shlex.split(value)
        except ValueError as error:
            return f"${name} can't be read ({error})."
        if command and shutil.which(command[0], path=environment.get("PATH")):
            return command
        return f"${name} names {value!r}, which can't be found."
    for fallback in _FALLBACKS:
        if shutil.which(fallback, path=environment.get("PATH")):
            return [fallback]
    return "No editor was found: set $VISUAL or $EDITOR."


def _edit_in(folder: Path, text: str, command: list[str], environment: Mapping[str, str]) -> Edited:
    path = folder / "prompt.md"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text.encode("utf-8", "replace"))
    with _deaf_to_interrupts():
        code = subprocess.run([*command, str(path)], env=dict(environment), check=False).returncode
    if code != 0:
        ending = f"signal {-code}" if code < 0 else f"exit code {code}"
        return Edited(None, f"{command[0]} ended with {ending}: the draft is as it was.")
    try:
        written = path.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError as error:
        return Edited(None, f"The edited text can't be read: {error.strerror or error}.")
    # Editors end the last line; the prompt had no such end unless the user gave it one.
    return Edited(written if text.endswith("\n") else written.removesuffix("\n"))


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Ctrl+C is for the editor. A handler that does nothing is not inherited, unlike SIG_IGN."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        if before is not None:  # None: set by other than Python, and not ours to restore
            signal.signal(signal.SIGINT, before)
