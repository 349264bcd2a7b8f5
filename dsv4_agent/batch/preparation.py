"""From a plan to a batch that can begin: items found, everything checked, nothing changed."""

from __future__ import annotations

import asyncio
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dsv4_agent.batch import items as sources
from dsv4_agent.batch.checkouts import Base, branch_is_valid
from dsv4_agent.batch.choices import Delivery
from dsv4_agent.batch.commands import Commands
from dsv4_agent.batch.items import Item, Source
from dsv4_agent.batch.job import Job, ModelChoice
from dsv4_agent.batch.ledger import Charter
from dsv4_agent.batch.naming import branch_of, message_of
from dsv4_agent.batch.plan import Plan, PlanError
from dsv4_agent.batch.template import TemplateError
from dsv4_agent.permissions.rules import RuleError, parse_rules
from dsv4_agent.workbench.exit_codes import OwnSubtype
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.models import hide_keys
from dsv4_tools.sandbox.select import choose

_COMMAND_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked batch, and lines for the user about what it will not see."""

    charter: Charter
    notes: tuple[str, ...]


def prepare(plan: Plan, directory: Path, plan_folder: Path) -> Prepared:
    """Find the items and check everything that can be checked before the model is asked.

    Raises `PlanError`; `RunFailure` 58 for a dirty work tree with `require_clean`, 54 for failing tools.
    """
    _check_rules(plan)
    items, bases = _items(plan, directory, plan_folder)
    notes: list[str] = []
    for base in bases.values():
        if plan.require_clean and base.is_dirty():
            raise RunFailure(
                OwnSubtype.DIRTY_TREE,
                f"{base.repository} has uncommitted changes (require_clean)",
                "Commit or stash them.",
            )
        notes += _notes(base)
    if plan.branch is not None and plan.deliver is Delivery.PATCHES:
        notes.append(
            f"no branch {plan.branch} will be made: deliver is patches, not branch, commits or branches"
        )
    for item in items:
        _check_item(plan, item)
    _check_branches(plan, items, bases)
    return Prepared(Charter(plan, directory, bases, tuple(items)), tuple(notes))


def _items(plan: Plan, directory: Path, folder: Path) -> tuple[list[Item], dict[Path, Base]]:
    wanted = plan.items
    if wanted.repositories is not None:
        tops = _repositories(wanted.repositories, folder)
        bases = {base.repository: base for base in (Base.of(top, plan.base) for top in tops)}
        if len(bases) < len(tops):
            raise PlanError("items.repositories names a repository twice; name each once")
        return sources.of_repositories(list(bases), wanted, Source(directory, ())), bases
    base = Base.of(directory, plan.base)
    source = Source(base.repository, base.files())
    if wanted.glob is not None:
        found = sources.of_glob(wanted, source)
    elif wanted.command is not None:
        found = sources.of_lines(_output(wanted.command, base.repository), wanted, source, "items.command")
    else:
        path = folder / (wanted.jsonl or wanted.lines or "")
        text = sources.read_source(path)
        read = sources.of_jsonl if wanted.jsonl is not None else sources.of_lines
        found = read(text, wanted, source, str(path))
    return found, {base.repository: base}


def _repositories(patterns: tuple[str, ...], folder: Path) -> list[Path]:
    tops: list[Path] = []
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if any(sign in pattern for sign in "*?["):
            root = Path(path.anchor) if path.is_absolute() else folder
            rest = str(path.relative_to(path.anchor)) if path.is_absolute() else pattern
            matched = [found for found in sorted(root.glob(rest)) if (found / ".git").exists()]
            if not matched:
                raise PlanError(f"items.repositories: {pattern!r} matches no git repository; check the path")
            tops += matched
        else:
            tops.append((folder / path).resolve())
    return tops


def _output(command: str, directory: Path) -> str:
    """What a command prints on its standard output; nothing of it may fail."""
    hide_keys()
    with tempfile.TemporaryDirectory(prefix="dsv4-batch-") as spill:
        capture = Path(spill) / "items"
        commands = Commands(directory, Path(spill), choose("off", False, workspace=directory))
        wrapped = f"{{ {command}\n}} >{shlex.quote(str(capture))}"
        outcome = asyncio.run(commands.run((wrapped,), _COMMAND_SECONDS))
        if not outcome.ok:
            said = " ".join(outcome.output.split())[-300:]
            ending = "took too long" if outcome.timed_out else f"exited {outcome.exit_code}"
            raise PlanError(f"items.command {ending}: {said or 'it printed no reason'}; try it in a shell")
        return capture.read_text(encoding="utf-8", errors="replace")


def _check_rules(plan: Plan) -> None:
    try:
        for text in (*plan.allowed_tools, *plan.disallowed_tools):
            parse_rules(text)
    except RuleError as error:
        raise PlanError(f"allowed_tools or disallowed_tools: {error}") from error


def _check_item(plan: Plan, item: Item) -> None:
    nowhere = Path()
    try:
        job = Job.of(plan, item, ModelChoice(name="?"), folder=nowhere, worktree=nowhere, git=nowhere)
        message_of(plan, item)
    except TemplateError as error:
        raise PlanError(f"item {item.id}: {error}") from error
    if not job.prompt.strip():
        raise PlanError(f"item {item.id}: its prompt is empty; check the item's values")


def _check_branches(plan: Plan, items: list[Item], bases: dict[Path, Base]) -> None:
    if plan.deliver is Delivery.PATCHES:
        return
    taken: set[tuple[Path, str]] = set()
    shared = plan.deliver is not Delivery.BRANCHES
    for item in items:
        try:
            branch = branch_of(plan, None if shared else item)
        except TemplateError as error:
            raise PlanError(f"branch: {error}; a shared branch can't have an item's values") from error
        if not branch_is_valid(branch):
            raise PlanError(f"branch {branch!r} is no valid name; see git help check-ref-format")
        if there := bases[item.repository].branch_in_the_way(branch):
            beside = "" if there == branch else f", and git keeps no {branch} beside it"
            raise PlanError(f"branch {there} exists already{beside}; delete it, or set another in branch")
        if not shared and (item.repository, branch) in taken:
            raise PlanError(f"branch {branch} would be made for two items; put {{id}} into branch")
        taken.add((item.repository, branch))


def _notes(base: Base) -> list[str]:
    notes: list[str] = []
    if modules := base.submodules():
        shown = ", ".join(modules[:3]) + (", ..." if len(modules) > 3 else "")
        notes.append(f"{base.repository.name}: submodules stay empty in the items' worktrees: {shown}")
    if base.uses_lfs():
        notes.append(f"{base.repository.name}: files in Git LFS are only pointers in the items' worktrees")
    if base.branch is None:
        notes.append(f"{base.repository.name}: HEAD is detached; the batch starts from {base.commit[:12]}")
    return notes
