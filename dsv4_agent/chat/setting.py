"""What a chat stands on: workspace, repository, model, rules. Opening it takes seconds; do it in a thread."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dsv4_agent.chat.options import ChatOptions
from dsv4_agent.chat.standing_rules import StandingRules
from dsv4_agent.loop.agent import Agent
from dsv4_agent.loop.assemble import make_agent
from dsv4_agent.loop.context import RunFacts
from dsv4_agent.loop.events import Subtype
from dsv4_agent.permissions.decision import Policy, SandboxMode
from dsv4_agent.session.journal import JournalError
from dsv4_agent.session.session import Session
from dsv4_agent.workbench.exit_codes import OwnSubtype
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.git_command import require_folder
from dsv4_agent.workbench.git_state import Repository
from dsv4_agent.workbench.models import OpenedModel, open_model
from dsv4_agent.workbench.own_folders import own_folders
from dsv4_tools.sandbox import SandboxUnavailable
from dsv4_tools.workspace import Workspace


@dataclass(slots=True)
class Setting:
    """Closed by `close`. `model` may be exchanged for another one."""

    options: ChatOptions
    workspace: Workspace
    repository: Repository
    model: OpenedModel
    rules: StandingRules
    policy: Policy

    @property
    def root(self) -> Path:
        """The workspace folder."""
        return self.workspace.root

    @property
    def branch(self) -> str:
        """The branch of the repository; empty where there is none."""
        info = self.repository.info()
        return "" if info is None else info.branch or "(detached)"

    def close(self) -> None:
        """Remove what was made for this chat only."""
        self.repository.close()


def open_setting(options: ChatOptions) -> Setting:
    """Open workspace, repository and model. Blocks. Raises `RunFailure` with cause and remedy."""
    directory = options.directory.resolve()
    if not directory.is_dir():
        raise RunFailure(Subtype.INPUT, f"{options.directory} is not a directory", "Check -C.")
    repository = Repository(directory)
    try:
        rules = StandingRules(directory)
        policy = Policy(
            directory,
            mode=options.permission_mode,
            sandbox=options.sandbox or SandboxMode.WORKSPACE_WRITE,
            allow=(*options.allowed_tools, *rules.load()),
            deny=options.disallowed_tools,
            interactive=True,
        )
        return Setting(options, Workspace(directory), repository, open_model(options.model), rules, policy)
    except BaseException:
        repository.close()
        raise


def new_session() -> Session:
    """A session on disk. Raises `RunFailure`."""
    try:
        return Session.create()
    except JournalError as error:
        raise RunFailure(OwnSubtype.TOOLS, str(error)) from error


def resume_session(journal: Path, model: OpenedModel) -> Session:
    """Take up a session again. Raises `RunFailure` where this model can't go on with it."""
    try:
        session = Session.resume(journal)
    except JournalError as error:
        raise RunFailure(OwnSubtype.TOOLS, str(error)) from error
    entries = session.transcript.entries
    # Ids of another tokenizer would be read as other words, and text without ids can't be continued by them.
    if entries and model.backend.encode(entries[0].segments) != entries[0].ids:
        session.close()
        cause = f"session {session.id} was held with another model than {model.backend.info.id}"
        raise RunFailure(Subtype.CONFIG, cause, "Start dsv4 with --model for that model, and resume there.")
    return session


def agent_for(setting: Setting, session: Session) -> Agent:
    """The agent of a session. Raises `RunFailure`: 44 without a sandbox asked for, 54 without the folder."""
    require_folder(setting.root)
    facts = RunFacts(
        cwd=str(setting.root), git=setting.repository.info(), capabilities=("approval", "steer", "rewind")
    )
    options = setting.options
    try:
        return make_agent(
            setting.root,
            setting.model.backend,
            setting.model.preset,
            policy=setting.policy,
            session=session,
            sandbox_explicit=options.sandbox is SandboxMode.WORKSPACE_WRITE,
            facts=facts,
            closed=own_folders(),
            seed=options.seed,
        )
    except SandboxUnavailable as error:
        raise RunFailure(Subtype.SANDBOX, error.cause, error.remedy) from error
