"""The interface of a sandbox: it turns a command into the command that is really started."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class Policy(StrEnum):
    """What a command may do; the values of `--sandbox`."""

    READ_ONLY = "read-only"
    WORKSPACE_WRITE = "workspace-write"
    OFF = "off"


class Network(StrEnum):
    """Whether a command reaches the network."""

    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Wrapped:
    """The command line and the environment to start.

    `unwanted` are files that must not have come when the command is over; call `settle` then.
    """

    argv: tuple[str, ...]
    environment: dict[str, str]
    unwanted: tuple[Path, ...] = ()

    def settle(self) -> str | None:
        """Remove what must not have come, and say so in a line.

        A `commondir` in a git folder makes Git take its configuration from wherever it says, and no mount
        can keep one from being made: Git reads it as soon as it is there, empty or not.
        """
        found = [path for path in self.unwanted if os.path.lexists(path)]
        for path in found:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()
        if not found:
            return None
        names = ", ".join(f"{path.parent.name}/{path.name}" for path in found)
        return f"[removed {names}: it would make Git read another configuration]"


class Sandbox(Protocol):
    """One substrate with one policy.

    `policy` is what was asked for, and file tools obey it as well. `effective` is what is really enforced; it
    goes into the `init` event with `network`. `degraded` and `reason` say when that is less than wanted.
    """

    @property
    def name(self) -> str: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def effective(self) -> str: ...
    @property
    def network(self) -> Network: ...
    @property
    def degraded(self) -> bool: ...
    @property
    def reason(self) -> str | None: ...

    def wrap(self, argv: Sequence[str], *, workspace: Path, environment: Mapping[str, str]) -> Wrapped:
        """The command to start instead of `argv`; `workspace` is its working directory and real path."""
        ...


class SandboxUnavailable(Exception):
    """A sandbox that was asked for cannot be had; `remedy` is one line for the user."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(f"{cause} {remedy}")
        self.cause = cause
        self.remedy = remedy
