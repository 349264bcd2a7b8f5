"""An agent from a folder and a backend, with the parts that front ends have in common."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dsv4_agent.backends.base import Backend
from dsv4_agent.loop.agent import Agent
from dsv4_agent.loop.calls import Checkpoint
from dsv4_agent.loop.context import RunFacts
from dsv4_agent.loop.facts import GitInfo, SandboxInfo
from dsv4_agent.loop.guards import Guard, Limits
from dsv4_agent.loop.preset import Preset
from dsv4_agent.loop.toolbox import Toolbox
from dsv4_agent.permissions.decision import Policy, SandboxMode
from dsv4_agent.session.session import Session
from dsv4_tools.base import ToolContext
from dsv4_tools.environment import scrubbed
from dsv4_tools.registry import default_tools
from dsv4_tools.sandbox.base import Sandbox
from dsv4_tools.sandbox.select import choose
from dsv4_tools.workspace import Workspace


def make_agent(
    workspace: Path,
    backend: Backend,
    preset: Preset,
    *,
    policy: Policy | None = None,
    session: Session | None = None,
    sandbox: Sandbox | None = None,
    sandbox_explicit: bool = False,
    facts: RunFacts | None = None,
    git: GitInfo | None = None,
    limits: Limits | None = None,
    seed: int | None = None,
    guards: Sequence[Guard] = (),
    checkpoint: Checkpoint | None = None,
    answer_schema: Mapping[str, object] | None = None,
    closed: Sequence[Path] = (),
) -> Agent:
    """Put an agent together. What is left out is the safe default; the session is a new one on disk.

    `closed` folders are shut to tools where the workspace holds them. `sandbox` defaults to the best one for
    the policy. Raises `ToolError` for a workspace that is no folder, `SandboxUnavailable` where
    `sandbox_explicit` and there is none, `JournalError`, `UnknownToolError`.
    """
    place = Workspace(workspace, closed=closed)
    policy = policy or Policy(place.root)
    environment = scrubbed(os.environ)
    chosen = sandbox or choose(
        policy.sandbox.value,
        sandbox_explicit,
        workspace=place.root,
        environment=environment,
        closed=place.closed,
    )
    session = session or Session.create()
    context = ToolContext(
        workspace=place, spill_dir=session.spill_directory, sandbox=chosen, environment=environment
    )
    enforced = chosen.effective == policy.sandbox.value
    facts = facts or RunFacts(cwd=str(place.root), git=git)
    facts = replace(facts, sandbox=_sandbox_info(policy.sandbox, chosen, enforced=enforced))
    return Agent(
        backend,
        session,
        Toolbox(preset, default_tools(), context),
        preset,
        replace(policy, sandbox_enforced=enforced),
        facts=facts,
        limits=limits,
        seed=seed,
        guards=guards,
        checkpoint=checkpoint,
        answer_schema=answer_schema,
    )


def _sandbox_info(requested: SandboxMode, chosen: Sandbox, *, enforced: bool) -> SandboxInfo:
    network = chosen.network.value
    if requested is SandboxMode.READ_ONLY and not enforced:
        reason = "every command and every change is refused"
        return SandboxInfo(requested.value, "permissions", network, False, reason)
    return SandboxInfo(requested.value, chosen.effective, network, chosen.degraded, chosen.reason)
