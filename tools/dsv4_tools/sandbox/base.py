"""The interface of a sandbox: it turns a command into the command that is really started."""

from __future__ import annotations

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
    """The command line and the environment to start."""

    argv: tuple[str, ...]
    environment: dict[str, str]


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
