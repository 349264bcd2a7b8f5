"""What a worker is told about its item: everything rendered, nothing to look up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from dsv4_agent.batch.choices import Retry
from dsv4_agent.batch.items import Item
from dsv4_agent.batch.plan import Budget, Plan
from dsv4_agent.batch.template import Template
from dsv4_agent.permissions.decision import PermissionMode, SandboxMode
from dsv4_agent.workbench.plain_text import without_surrogates


class ModelChoice(BaseModel):
    """The model as a worker opens it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    effort: str | None = None
    temperature: float | None = None


class Job(BaseModel):
    """One item's work. `folder` is the item's own (journals, outputs), `worktree` and `git` its checkout.

    `objects` are folders outside of them that git reads objects from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    folder: Path
    worktree: Path
    git: Path
    objects: tuple[Path, ...] = ()
    prompt: str
    setup: tuple[str, ...] = ()
    verify: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    retries: int = 1
    retry: Retry = Retry.FEEDBACK
    setup_timeout: float = 600.0
    verify_timeout: float = 600.0
    budget: Budget = Budget()
    model: ModelChoice
    seed: int | None = None
    permission_mode: PermissionMode = PermissionMode.DEFAULT
    sandbox: SandboxMode | None = None
    allowed_tools: tuple[str, ...] = ()
    disallowed_tools: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        plan: Plan,
        item: Item,
        model: ModelChoice,
        *,
        folder: Path,
        worktree: Path,
        git: Path,
        objects: tuple[Path, ...] = (),
    ) -> Job:
        """The job of an item. Raises `TemplateError` for a placeholder without a value."""
        values = item.values
        assert plan.prompt is not None, "a loaded plan has its prompt"
        return cls(
            id=item.id,
            folder=folder,
            worktree=worktree,
            git=git,
            objects=objects,
            prompt=without_surrogates(Template.parse(plan.prompt).text(values)),
            setup=tuple(Template.parse(text).command(values) for text in plan.setup),
            verify=tuple(Template.parse(text).command(values) for text in plan.verify),
            allow=tuple(Template.parse(text).text(values) for text in plan.allow),
            retries=plan.retries,
            retry=plan.retry,
            setup_timeout=plan.setup_timeout,
            verify_timeout=plan.verify_timeout,
            budget=plan.budget,
            model=model,
            seed=plan.seed,
            permission_mode=plan.permission_mode,
            sandbox=plan.sandbox,
            allowed_tools=plan.allowed_tools,
            disallowed_tools=plan.disallowed_tools,
        )

    def to_line(self) -> bytes:
        """One line of JSON; `from_line` is its inverse, also for names of files that are not UTF-8."""
        return json.dumps(self.model_dump(mode="json")).encode("ascii") + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """Read a job. Raises `ValueError`."""
        return cls.model_validate(json.loads(line))
