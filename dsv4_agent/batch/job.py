"""What a worker is told about its item: everything rendered, nothing to look up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from dsv4_agent.batch.items import Item
from dsv4_agent.batch.plan import Budget, Plan
from dsv4_agent.batch.template import Template
from dsv4_agent.permissions.decision import PermissionMode, SandboxMode


class ModelChoice(BaseModel):
    """The model as a worker opens it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    effort: str | None = None
    temperature: float | None = None


class Job(BaseModel):
    """One item's work. `folder` is the item's own (journals, outputs), `worktree` and `git` its checkout."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    folder: Path
    worktree: Path
    git: Path
    prompt: str
    setup: tuple[str, ...] = ()
    verify: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    retries: int = 1
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
    def of(cls, plan: Plan, item: Item, model: ModelChoice, **places: Path) -> Job:
        """The job of an item. Raises `TemplateError` for a placeholder without a value."""
        values = item.values
        assert plan.prompt is not None, "a loaded plan has its prompt"
        return cls(
            id=item.id,
            prompt=Template.parse(plan.prompt).text(values),
            setup=tuple(Template.parse(text).command(values) for text in plan.setup),
            verify=tuple(Template.parse(text).command(values) for text in plan.verify),
            allow=tuple(Template.parse(text).text(values) for text in plan.allow),
            model=model,
            **_shared(plan),
            **places,
        )


_SHARED = (
    *("retries", "setup_timeout", "verify_timeout", "budget", "seed"),
    *("permission_mode", "sandbox", "allowed_tools", "disallowed_tools"),
)


def _shared(plan: Plan) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in _SHARED}
