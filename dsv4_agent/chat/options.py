"""What a chat was asked to be, after the command line has been read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dsv4_agent.permissions.decision import PermissionMode, SandboxMode
from dsv4_agent.permissions.rules import Rule
from dsv4_agent.workbench.model_options import ModelOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """Everything that shapes a chat. `resume`: a session's id, the beginning of one, a title, or `last`."""

    directory: Path
    model: ModelOptions = field(default_factory=ModelOptions)
    permission_mode: PermissionMode = PermissionMode.DEFAULT
    sandbox: SandboxMode | None = None
    allowed_tools: tuple[Rule, ...] = ()
    disallowed_tools: tuple[Rule, ...] = ()
    resume: str | None = None
    seed: int | None = None
