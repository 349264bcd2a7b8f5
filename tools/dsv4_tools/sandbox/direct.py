"""No sandbox: the command runs as the user would run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsv4_tools.sandbox.base import Network, Policy, Wrapped


@dataclass(frozen=True, slots=True)
class Direct:
    """Runs commands unchanged. `degraded` when something better was wanted, for `reason`."""

    degraded: bool = False
    reason: str | None = None
    policy: Policy = Policy.OFF
    name: str = "direct"
    effective: str = "off"
    network: Network = Network.ON

    def wrap(self, argv: Sequence[str], *, workspace: Path, environment: Mapping[str, str]) -> Wrapped:
        """The command as it is."""
        return Wrapped(tuple(argv), dict(environment))
