"""A small git repository and a way to run the real loop with the real tools over a script."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dsv4_agent.backends.base import Backend
from dsv4_agent.backends.scripted import ScriptedBackend, parse_script
from dsv4_agent.loop.agent import Agent
from dsv4_agent.loop.assemble import make_agent
from dsv4_agent.loop.events import Event, RunResult
from dsv4_agent.loop.guards import Limits
from dsv4_agent.loop.preset import Preset, nano_preset
from dsv4_agent.permissions.decision import PermissionMode, Policy
from dsv4_agent.permissions.rules import parse_rules
from dsv4_agent.session.session import Session

GIT = ("git", "-c", "user.name=T", "-c", "user.email=t@example.invalid", "-c", "init.defaultBranch=main")


@dataclass
class Lab:
    """Where a run happens and what came of the last one."""

    workspace: Path
    sessions: Path
    events: list[Event] = field(default_factory=list)
    session: Session | None = None

    def agent(
        self,
        model: str | Backend,
        *,
        mode: str = "default",
        allow: str = "",
        deny: str = "",
        limits: Limits | None = None,
        preset: Preset | None = None,
        session: Session | None = None,
    ) -> Agent:
        self.session = session or Session.create(directory=self.sessions)
        return make_agent(
            self.workspace,
            ScriptedBackend(parse_script(model)) if isinstance(model, str) else model,
            preset or nano_preset(),
            policy=Policy(
                self.workspace, PermissionMode(mode), allow=parse_rules(allow), deny=parse_rules(deny)
            ),
            session=self.session,
            limits=limits,
        )

    async def run(self, model: str | Backend, prompt: str = "do it", **options: object) -> RunResult:
        agent = self.agent(model, **options)  # type: ignore[arg-type]
        self.events = [event async for event in agent.run(prompt)]
        last = self.events[-1]
        assert isinstance(last, RunResult)
        assert not any(isinstance(event, RunResult) for event in self.events[:-1])
        return last

    def of(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def results(self) -> list[str]:
        """The texts of all tool results that the model was given."""
        assert self.session is not None
        messages = self.session.transcript.messages()
        return [str(message["content"]) for message in messages if message["role"] == "tool"]

    @property
    def told(self) -> list[str]:
        """The user-side texts."""
        assert self.session is not None
        messages = self.session.transcript.messages()
        return [str(message["content"]) for message in messages if message["role"] == "user"]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    workspace = tmp_path / "repo"
    workspace.mkdir()
    (workspace / "app.py").write_text("def old_name():\n    return 1\n")
    for command in (("init", "-q"), ("add", "."), ("commit", "-qm", "first")):
        subprocess.run((*GIT, *command), cwd=workspace, check=True)
    return Lab(workspace, tmp_path / "sessions")
