"""Put a run together from its options: session, sandbox, tools, policy, agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from dsv4_agent.headless.options import RunOptions
from dsv4_agent.loop.agent import Agent
from dsv4_agent.loop.assemble import make_agent
from dsv4_agent.loop.context import RunFacts
from dsv4_agent.loop.events import Subtype
from dsv4_agent.loop.guards import Guard, Limits
from dsv4_agent.loop.toolbox import UnknownToolError
from dsv4_agent.permissions.decision import Policy, SandboxMode
from dsv4_agent.session.journal import JournalError
from dsv4_agent.session.session import Session
from dsv4_agent.workbench.exit_codes import OwnSubtype
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.git_state import Repository
from dsv4_agent.workbench.models import OpenedModel
from dsv4_agent.workbench.own_folders import own_folders
from dsv4_tools.sandbox import SandboxUnavailable

_CAPABILITIES: Final = ("output_schema",)
_REPOSITORY_CONFIG: Final = (".dsv4", "AGENTS.md", "CLAUDE.md", ".mcp.json")


def open_session(options: RunOptions) -> Session:
    """Start the journal. Raises `RunFailure`: 42 for an unusable id, 54 where it can't be written."""
    try:
        return Session.create(id=options.session_id, ephemeral=options.ephemeral)
    except JournalError as error:
        taken = not isinstance(error.__cause__, OSError) or isinstance(error.__cause__, FileExistsError)
        raise RunFailure(Subtype.INPUT if taken else OwnSubtype.TOOLS, str(error)) from error


def build_agent(
    options: RunOptions,
    model: OpenedModel,
    session: Session,
    repository: Repository,
    limits: Limits,
    guards: Sequence[Guard] = (),
    answer_schema: Mapping[str, object] | None = None,
) -> Agent:
    """The agent of a run. Raises `RunFailure`: 44 without the sandbox asked for, 42 for an unknown tool."""
    directory = options.directory.resolve()
    policy = Policy(
        directory,
        mode=options.permission_mode,
        sandbox=options.sandbox or SandboxMode.WORKSPACE_WRITE,
        allow=options.allowed_tools,
        deny=options.disallowed_tools,
    )
    facts = RunFacts(
        cwd=str(directory),
        git=repository.info(),
        trusted=options.trust,
        ignored_repo_config=tuple(name for name in _REPOSITORY_CONFIG if (repository.root / name).exists()),
        capabilities=_CAPABILITIES,
    )
    try:
        return make_agent(
            directory,
            model.backend,
            model.preset,
            policy=policy,
            session=session,
            # read-only needs no help from the system: permissions refuse every command and every change.
            sandbox_explicit=options.sandbox is SandboxMode.WORKSPACE_WRITE,
            facts=facts,
            limits=limits,
            closed=own_folders(),
            seed=options.seed,
            guards=guards,
            answer_schema=answer_schema,
        )
    except UnknownToolError as error:
        raise RunFailure(Subtype.INPUT, f"--tools: {error}") from error
    except SandboxUnavailable as error:
        raise RunFailure(Subtype.SANDBOX, error.cause, error.remedy) from error
