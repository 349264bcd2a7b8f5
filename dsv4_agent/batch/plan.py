"""A batch plan: what is to be done to which items, how each is verified, what may be spent.

The smallest plan has three keys::

    prompt = "Rename {old} to {new} everywhere"
    items = { jsonl = "items.jsonl" }
    verify = "pytest -q {path}"

Paths of a plan are relative to the plan's folder, globs to the top of the repository. Placeholders are the
item's values (see `template`).
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from dsv4_agent.batch.choices import Conflicts, Delivery, Retry
from dsv4_agent.batch.template import Template, TemplateError
from dsv4_agent.permissions.decision import PermissionMode, SandboxMode

SIZE_LIMIT = 4_000_000
"""Bytes of a plan file."""


class PlanError(Exception):
    """The plan can't be used; one line: the cause, then the remedy."""


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(_listed, json_schema_input_type=str | tuple[str, ...])]
"""One text or a list of them."""
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Items(_Strict):
    """Where the items come from: exactly one of the first five."""

    glob: Texts | None = None
    """Patterns of files in the base commit, e.g. `src/**/*.py`; an item a file, `{path}`."""
    lines: str | None = None
    """A text file, an item a line, `{line}`."""
    jsonl: str | None = None
    """A file of JSON objects, one a line; their keys are placeholders."""
    command: str | None = None
    """A shell command, run at the top of the repository; an item a line of its output, `{line}`."""
    repositories: Texts | None = None
    """Folders of git repositories; an item each, `{repository}`."""
    exclude: Texts = ()
    """Patterns of files that `glob` leaves out."""
    limit: Count | None = None
    """Most items that are taken."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        names = ("glob", "lines", "jsonl", "command", "repositories")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(names)}; there is {', '.join(given) or 'none'}")
        if self.exclude and self.glob is None:
            raise ValueError("exclude belongs to glob")
        return self


class Budget(_Strict):
    """What may be spent; an item that runs out ends as `budget`."""

    max_turns: Count | None = None
    max_tokens: Count | None = None
    """Sampled tokens."""
    max_tool_calls: Count | None = None
    max_time: Seconds | None = None
    """Seconds."""


class Total(_Strict):
    """What all items may spend together; those that have not begun by then are `skipped`."""

    max_tokens: Count | None = None
    """Sampled tokens."""
    max_time: Seconds | None = None
    """Seconds."""


class Plan(_Strict):
    """A batch. Every key but `prompt` and `items` has a default."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,60}$")] = "batch"
    """Names branches and reports."""
    prompt: str | None = None
    """The instruction, with placeholders."""
    prompt_file: str | None = None
    """A file that holds the instruction, in place of `prompt`."""
    items: Items
    base: str = "HEAD"
    """The commit that every item starts from."""
    setup: Texts = ()
    """Shell commands before the model begins, in the item's worktree; what they change is not delivered."""
    verify: Texts = ()
    """Shell commands that must all exit 0; without any, an item is done when the model says so."""
    allow: Texts = ()
    """Patterns of paths that may change (placeholders allowed); none: all."""
    retries: Annotated[int, Field(ge=0, le=20)] = 1
    """How often the model may try again after a failed verify."""
    retry: Retry = Retry.FEEDBACK
    """`feedback`: go on with what verify said; `fresh`: begin anew, with other luck."""
    setup_timeout: Seconds = 600.0
    verify_timeout: Seconds = 600.0
    budget: Budget = Budget()
    """Per item."""
    total: Total = Total()
    jobs: Annotated[int, Field(ge=1, le=1024)] = 4
    """Items in progress at once."""
    model: str | None = None
    """As `--model`; default: the user's."""
    effort: str | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    seed: int | None = None
    permission_mode: PermissionMode = PermissionMode.DEFAULT
    sandbox: SandboxMode | None = None
    allowed_tools: Texts = ()
    disallowed_tools: Texts = ()
    deliver: Delivery = Delivery.PATCHES
    branch: str | None = None
    """Name of the delivered branch, or of each with placeholders; default `dsv4/NAME` or `dsv4/NAME/ID`."""
    message: str | None = None
    """Commit message with placeholders; default: the first line of the prompt."""
    conflicts: Conflicts = Conflicts.REPORT
    require_clean: bool = False
    """Refuse to begin while the work tree has uncommitted changes."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.prompt is None) is (self.prompt_file is None):
            raise ValueError("give either prompt or prompt_file")
        if self.prompt is not None and not self.prompt.strip():
            raise ValueError("prompt is empty")
        try:
            for text in (self.prompt, self.branch, self.message, *self.setup, *self.verify, *self.allow):
                if text is not None:
                    Template.parse(text)
        except TemplateError as error:
            raise ValueError(str(error)) from error
        return self


def parse_plan(data: Any, where: str) -> Plan:
    """Check a plan's data. Raises `PlanError` that names the key, `where` and what would be right."""
    try:
        return Plan.model_validate(data)
    except ValidationError as error:
        raise PlanError(f"{where}: {_first(error)}") from error


def load_plan(path: Path) -> Plan:
    """Read a plan; `prompt_file` is read, so that the plan is complete. Raises `PlanError`."""
    try:
        if path.stat().st_size > SIZE_LIMIT:
            raise PlanError(f"{path} is over {SIZE_LIMIT // 1_000_000} MB: name the plan, not the data")
        text = path.read_text(encoding="utf-8-sig")
        data = tomllib.loads(text)
    except OSError as error:
        raise PlanError(f"{path} can't be read: {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise PlanError(f"{path} is not TOML: {error}; mend it there") from error
    plan = parse_plan(data, str(path))
    if plan.prompt_file is None:
        return plan
    source = path.parent / plan.prompt_file
    try:
        prompt = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: prompt_file {source} can't be read: {error}; check the path") from error
    return parse_plan({**data, "prompt": prompt, "prompt_file": None}, str(path))


def plan_schema() -> dict[str, Any]:
    """The JSON Schema of a plan file."""
    schema = Plan.model_json_schema()
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {**head, **schema, "title": "dsv4 batch plan"}


def _first(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in found["loc"] if not str(part).startswith("function-")) or "plan"
    if found["type"] == "extra_forbidden":
        known = ", ".join(sorted(_fields(found["loc"])))
        return f"unknown key {place}; there are {known}"
    if found["type"] == "missing":
        return f"{place} is missing; add it"
    words = str(found["msg"]).removeprefix("Value error, ")
    return f"{place}: {words[:1].lower()}{words[1:]}" if place != "plan" else words


def _fields(place: tuple[int | str, ...]) -> set[str]:
    model: type[BaseModel] = Plan
    for part in place[:-1]:
        inner = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        model = inner
    return set(model.model_fields)
