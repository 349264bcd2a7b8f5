"""Keys of servers: looked for in the environment, the keyring and a private file, in this order.

A key is handed on as a `Secret` and goes nowhere else: no setting, log, error or journal holds it, and
no tool's environment.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import stat
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from dsv4_agent.backends.profile import Secret
from dsv4_agent.workbench.private_file import write_private
from dsv4_agent.workbench.settings import config_directory

SERVICE: Final = "dsv4"
_MOST: Final = 8192  # characters; a key is shorter, and a log file named by mistake is not read to its end
_KEY: Final = re.compile(r"[!-~]+")
_PATIENCE: Final = 3.0  # seconds; a locked keyring may wait for a person who isn't there
T = TypeVar("T")


class KeyRefused(Exception):
    """A key is there but can't be used; one line with the cause and the remedy, never the key."""


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key, and where it was found, in words for people."""

    secret: Secret
    place: str


def find_key(name: str, key_env: str | None, environment: Mapping[str, str]) -> FoundKey | None:
    """The key of a profile; None where there is none. Raises `KeyRefused`."""
    if key_env is not None and (text := environment.get(key_env, "").strip()):
        return FoundKey(_checked(text, f"the variable {key_env}"), f"the variable {key_env}")
    if kept := _from_keyring(name):
        return FoundKey(_checked(kept, "the keyring"), "the keyring")
    path = key_file(name)
    if kept := _from_file(path):
        return FoundKey(_checked(kept, str(path)), str(path))
    return None


def keep_key(name: str, secret: Secret) -> str:
    """Put a key into the keyring, or where there is none into a file of mode 0600; says where.

    Raises `KeyRefused` for what can't be a key, `OSError`.
    """
    text = _checked(secret.reveal().strip(), "the input").reveal()
    keyring = _keyring()
    if keyring is not None and _patiently(lambda: _stored(keyring, name, text)):
        key_file(name).unlink(missing_ok=True)
        return "the keyring"
    path = key_file(name)
    write_private(path, text + "\n")
    return str(path)


def check_key(secret: Secret) -> None:
    """Raises `KeyRefused` for what can't be a key."""
    _checked(secret.reveal().strip(), "the input")


def is_kept(name: str) -> bool:
    """Whether keyring or file hold something under a name, be it unusable."""
    try:
        return find_key(name, None, {}) is not None
    except KeyRefused:
        return True


def forget_key(name: str) -> None:
    """Remove a kept key from keyring and file. Raises `OSError`."""
    keyring = _keyring()
    if keyring is not None:
        _patiently(lambda: _deleted(keyring, name))
    key_file(name).unlink(missing_ok=True)


def key_file(name: str) -> Path:
    """Where a key lies that has no keyring."""
    return config_directory() / "keys" / name


def _checked(text: str, place: str) -> Secret:
    if len(text) > _MOST or not _KEY.fullmatch(text):
        raise KeyRefused(f"{place} holds no key: a key is one word of printable ASCII; put it there again")
    return Secret(text)


def _from_file(path: Path) -> str | None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeyRefused(f"the key file {path} can't be read ({error.strerror}): mend or remove it") from None
    try:
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode) or state.st_uid != os.geteuid():
            raise KeyRefused(f"the key file {path} is not a file of yours: remove it, or run chown on it")
        if state.st_mode & 0o077:
            raise KeyRefused(f"the key file {path} can be read by others: run chmod 600 {path}")
        return os.read(handle, _MOST + 1).decode("utf-8", "replace").strip() or None
    finally:
        os.close(handle)


def _from_keyring(name: str) -> str | None:
    keyring = _keyring()
    return None if keyring is None else _patiently(lambda: keyring.get_password(SERVICE, name))


def _keyring() -> Any:
    """The keyring package with a backend that can keep something; None without."""
    if not _plausible() or importlib.util.find_spec("keyring") is None:
        return None
    return _patiently(_usable_keyring)


def _plausible() -> bool:
    """Whether a backend may exist. Spares servers and containers a slow import and its D-Bus attempts."""
    if sys.platform in ("darwin", "win32") or os.environ.get("PYTHON_KEYRING_BACKEND"):
        return True
    return bool(os.environ.get("DBUS_SESSION_BUS_ADDRESS"))


def _usable_keyring() -> Any:
    import keyring
    from keyring.backends import fail, null

    return None if isinstance(keyring.get_keyring(), fail.Keyring | null.Keyring) else keyring


def _stored(keyring: Any, name: str, text: str) -> bool:
    keyring.set_password(SERVICE, name, text)
    return bool(keyring.get_password(SERVICE, name) == text)


def _deleted(keyring: Any, name: str) -> bool:
    keyring.delete_password(SERVICE, name)
    return True


def _patiently(ask: Callable[[], T]) -> T | None:
    """What `ask` returns; None where it fails or takes too long (its thread is left behind)."""
    answers: list[T] = []

    def work() -> None:
        with contextlib.suppress(Exception):  # whatever a keyring raises, there is no key in it for us
            answers.append(ask())

    worker = threading.Thread(target=work, name="dsv4-keyring", daemon=True)
    worker.start()
    worker.join(_PATIENCE)
    return answers[0] if answers else None
