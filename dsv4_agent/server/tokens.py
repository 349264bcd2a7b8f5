"""The bearer token: made, read from a file, or, on loopback alone, done without."""

from __future__ import annotations

import ipaddress
import secrets
from pathlib import Path

from dsv4_agent.loop.events import Subtype
from dsv4_agent.workbench.failures import RunFailure

__all__ = ["is_loopback", "token_of"]

_LEAST = 16
"""Characters: what is shorter can be guessed."""


def token_of(given: str | None, file: Path | None, *, without: bool, host: str) -> str | None:
    """The token that requests must carry; None for none. Raises `RunFailure`."""
    if without:
        if given is not None or file is not None:
            cause = "--no-token contradicts --token and --token-file"
            raise RunFailure(Subtype.INPUT, cause, "Leave one of them out.")
        if not is_loopback(host):
            cause = f"without a token anyone who reaches {host} could use the model"
            raise RunFailure(Subtype.INPUT, cause, "Leave --no-token out, or listen on 127.0.0.1.")
        return None
    if given is not None and file is not None:
        raise RunFailure(Subtype.INPUT, "--token contradicts --token-file", "Leave one of them out.")
    if file is not None:
        given = _read(file)
    if given is None:
        return secrets.token_urlsafe(32)
    if len(given) < _LEAST or not given.isascii() or not given.isprintable() or " " in given:
        cause = f"the token must have at least {_LEAST} characters, ASCII and without spaces"
        raise RunFailure(Subtype.INPUT, cause, "Leave it out and one is made.")
    return given


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(file: Path) -> str:
    try:
        if file.stat().st_mode & 0o077:
            cause = f"{file} can be read by others"
            raise RunFailure(Subtype.CONFIG, cause, f"Run: chmod 600 {file}")
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RunFailure(Subtype.CONFIG, f"{file} can't be read", "Write the token into it.") from error
