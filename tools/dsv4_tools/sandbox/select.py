"""Which sandbox a session gets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from dsv4_tools.sandbox.base import Policy, Sandbox, SandboxUnavailable
from dsv4_tools.sandbox.bubblewrap import Bubblewrap, probe
from dsv4_tools.sandbox.direct import Direct


def choose(
    requested: Policy | str | None,
    explicit: bool,
    *,
    workspace: Path | None = None,
    environment: Mapping[str, str] | None = None,
    readable: Sequence[Path] = (),
    closed: Sequence[Path] = (),
) -> Sandbox:
    """The best sandbox for the policy that was asked for (default: workspace-write).

    Programs inside `workspace` are never taken for the sandbox itself. Commands can also read the folders of
    `readable`, which a sandbox may otherwise hide, and find nothing in those of `closed`. When none works, an
    explicit request raises SandboxUnavailable; otherwise commands run directly, and the result says so.
    """
    policy = Policy(requested) if requested is not None else Policy.WORKSPACE_WRITE
    if policy is Policy.OFF:
        return Direct()
    try:
        program = probe(
            environment if environment is not None else os.environ,
            (workspace if workspace is not None else Path.cwd()).resolve(),
        )
    except SandboxUnavailable as error:
        if explicit:
            raise
        return Direct(degraded=True, reason=error.cause, policy=policy)
    return Bubblewrap(program, policy, tuple(readable), tuple(closed))
