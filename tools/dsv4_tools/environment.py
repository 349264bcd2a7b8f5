"""The environment of the commands that tools run: nothing secret, nothing that waits for a person."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

# Words stand between underscores: `OPENAI_API_KEY_2` holds a key, `MONKEY` and `TOKENIZERS_X` don't.
_SECRET = re.compile(
    r"(_|^)((API|ACCESS|AUTH|PRIVATE)_?)?(KEYS?|TOKENS?)(_|$)"
    r"|(_|^)(PAT|PASS|PWD_?FILE|COOKIE|AUTH|JWT|AUTHORIZATION)(_?\d+)?$"
    r"|_PWD$|_JWT_|(_|^)AUTH_?CONFIG$|CONNECTION_?STRING|WEBHOOK|^(BW|OP)_SESSION"
    r"|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL",
    re.IGNORECASE,
)
_DROPPED_PREFIXES = ("GIT_", "DSV4_", "BASH_FUNC_", "SSH_")
_DROPPED = frozenset(
    {
        "BASH_ENV",
        "ENV",
        "SHELLOPTS",
        "BASHOPTS",
        "PROMPT_COMMAND",
        "CDPATH",
        "GLOBIGNORE",
        "RIPGREP_CONFIG_PATH",
    }
    | {"PS4", "LESSOPEN", "LESSCLOSE", "OLDPWD"}
)
_withheld: set[str] = set()
_FIXED = {
    "TERM": "dumb",
    "PAGER": "cat",
    "GIT_PAGER": "cat",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_EDITOR": "true",
    "NO_COLOR": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "DEBIAN_FRONTEND": "noninteractive",
}


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name is known to hold a credential, or probably does."""
    return name in _withheld or _SECRET.search(name) is not None


def withhold(names: Iterable[str]) -> None:
    """Never hand these variables to a command from now on: they hold secrets, whatever they are called."""
    _withheld.update(names)


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` without secrets, Git and dsv4 variables and start-up hooks, made non-interactive."""
    kept = {
        name: value
        for name, value in environment.items()
        if name not in _DROPPED and not name.startswith(_DROPPED_PREFIXES) and not is_secret_name(name)
    }
    return {**kept, **_FIXED}


def find_git(environment: Mapping[str, str], folder: Path) -> str | None:
    """The absolute path of git; one inside `folder` only where there is no other (`folder` may be `/`).

    One in a relative entry of PATH, which is whatever folder the process stands in, is never taken.
    """
    if found := find_program("git", environment, folder):
        return found
    listed = [entry for entry in environment.get("PATH", os.defpath).split(":") if entry.startswith("/")]
    return shutil.which("git", path=":".join(listed)) if listed else None


def find_program(name: str, environment: Mapping[str, str], workspace: Path) -> str | None:
    """The absolute path of a program, never one that the workspace itself supplies."""
    folders = [
        folder
        for folder in environment.get("PATH", "/usr/local/bin:/usr/bin:/bin").split(":")
        if folder.startswith("/") and not Path(folder).resolve().is_relative_to(workspace)
    ]
    found = shutil.which(name, path=":".join(folders)) if folders else None
    if found is None or Path(found).resolve().is_relative_to(workspace):
        return None
    return found
