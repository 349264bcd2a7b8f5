"""The first and the last event of a run."""

from __future__ import annotations

from time import monotonic

from dsv4_agent.backends.base import BackendInfo
from dsv4_agent.loop.context import RunFacts
from dsv4_agent.loop.events import EXIT_CODES, Init, RunResult, Subtype
from dsv4_agent.loop.facts import ModelInfo
from dsv4_agent.loop.guards import RunState
from dsv4_agent.permissions.decision import Policy
from dsv4_agent.session.session import Session
from dsv4_agent.version import __version__


def init_event(
    session: Session, backend: BackendInfo, facts: RunFacts, policy: Policy, tools: tuple[str, ...]
) -> Init:
    """What the run works with."""
    return Init(
        session_id=session.id,
        dsv4_version=__version__,
        model=ModelInfo(backend.id, backend.kind.value, backend.context_window),
        cwd=facts.cwd,
        git=facts.git,
        trusted=facts.trusted,
        ignored_repo_config=facts.ignored_repo_config,
        permission_mode=policy.mode.value,
        sandbox=facts.sandbox,
        tools=tools,
        memory_files=facts.memory_files,
        capabilities=facts.capabilities,
    )


def result_event(session: Session, run: RunState, ending: Subtype, error: str | None) -> RunResult:
    """How the run ended."""
    return RunResult(
        subtype=ending,
        is_error=ending is not Subtype.SUCCESS,
        exit_code=EXIT_CODES[ending],
        result=run.answer,
        session_id=session.id,
        num_turns=run.turns,
        duration_ms=round((monotonic() - run.started) * 1000),
        error=error,
        usage=run.usage,
        permission_denials=tuple(run.denials),
        files_changed=tuple(run.files_changed),
    )
