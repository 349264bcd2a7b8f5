"""What `dsv4 run` was asked to do, after the command line has been read."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from dsv4_agent.headless.prompt_input import PromptSource
from dsv4_agent.permissions.decision import PermissionMode, SandboxMode
from dsv4_agent.permissions.rules import Rule
from dsv4_agent.workbench.model_options import ModelOptions


class OutputFormat(StrEnum):
    """What stdout carries: the answer, the result object, or every event."""

    TEXT = "text"
    JSON = "json"
    STREAM_JSON = "stream-json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Everything that shapes a run. `None` means: not given, so the default or no limit.

    `max_time` is in seconds; `max_tokens` counts sampled tokens of the whole run.
    """

    prompt: PromptSource
    directory: Path
    model: ModelOptions = field(default_factory=ModelOptions)
    output_format: OutputFormat = OutputFormat.TEXT
    include_partial: bool = False
    include_reasoning: bool = False
    last_message_file: Path | None = None
    output_schema: str | None = None
    max_turns: int | None = None
    max_tokens: int | None = None
    max_time: float | None = None
    max_tool_calls: int | None = None
    allowed_tools: tuple[Rule, ...] = ()
    disallowed_tools: tuple[Rule, ...] = ()
    permission_mode: PermissionMode = PermissionMode.DEFAULT
    sandbox: SandboxMode | None = None
    seed: int | None = None
    patch_file: Path | None = None
    summary_file: Path | None = None
    fail_if_no_changes: bool = False
    fail_on_denied: bool = False
    require_clean: bool = False
    skip_git_repo_check: bool = False
    ephemeral: bool = False
    session_id: str | None = None
    trust: bool = False
