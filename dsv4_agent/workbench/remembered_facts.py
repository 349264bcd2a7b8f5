"""What a remote server turned out to be, kept for a quarter of an hour: starts need not ask again.

Servers of this machine change often and answer at once, so they are always asked.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from dsv4_agent.backends.facts import ServerFacts
from dsv4_agent.backends.profile import ServerProfile
from dsv4_agent.session.session import state_directory
from dsv4_agent.version import __version__
from dsv4_agent.workbench.private_file import write_private

_SECONDS: Final = 900.0
_MOST: Final = 1 << 20  # bytes


def recall(profile: ServerProfile) -> ServerFacts | None:
    """The facts of a server that was asked a moment ago; None for one that must be asked."""
    if is_near(profile):
        return None
    from pydantic import TypeAdapter

    path = _file(profile)
    with contextlib.suppress(OSError, ValueError):
        state = path.stat()
        if not 0 <= time.time() - state.st_mtime <= _SECONDS or state.st_size > _MOST:
            return None
        return TypeAdapter(ServerFacts).validate_json(path.read_bytes())
    return None


def remember(profile: ServerProfile, facts: ServerFacts) -> None:
    """Keep facts that are worth keeping; where nothing can be written they are just not kept."""
    if is_near(profile):
        return
    with contextlib.suppress(OSError):
        write_private(_file(profile), json.dumps(asdict(facts)), durable=False)


def forget(profile: ServerProfile) -> None:
    """Ask this server again at the next start."""
    with contextlib.suppress(OSError):
        _file(profile).unlink(missing_ok=True)


def is_near(profile: ServerProfile) -> bool:
    """Whether the server is on this machine."""
    host = urlsplit(profile.base_url).hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _file(profile: ServerProfile) -> Path:
    described = repr((__version__, replace(profile, key=None)))
    digest = hashlib.blake2b(described.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
    return state_directory() / "servers" / f"{digest}.json"
