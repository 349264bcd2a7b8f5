"""From what stood on the command line to a running batch."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from dsv4_agent.batch.choices import ExecutorKind
from dsv4_agent.batch.executor import Executor
from dsv4_agent.batch.job import ModelChoice
from dsv4_agent.batch.ledger import Charter, read_ledger
from dsv4_agent.batch.one_batch import Begun, begin, go_on, sandbox_of
from dsv4_agent.batch.plan import Plan, PlanError, load_plan, parse_plan
from dsv4_agent.batch.preparation import Prepared, prepare
from dsv4_agent.batch.run import Settings, execute, parse_report
from dsv4_agent.batch.runs import RunFolder, find_run
from dsv4_agent.batch.template import Template
from dsv4_agent.headless.atomic_file import require_writable
from dsv4_agent.loop.events import Subtype
from dsv4_agent.session.journal import JournalError
from dsv4_agent.workbench.exit_codes import ExitCode
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.git_command import top_level
from dsv4_agent.workbench.model_options import ModelOptions
from dsv4_agent.workbench.models import choose_model
from dsv4_agent.workbench.plain_text import plain, plain_line

_HERE: Final = "command line"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The command line. `sources` are of `items`, `changes` of the plan; only what was given is there."""

    what: str | None
    sources: Mapping[str, Any]
    changes: Mapping[str, Any]
    budget: Mapping[str, Any]
    total: Mapping[str, Any]
    directory: Path
    executor: ExecutorKind
    address: str | None
    resume: bool
    dry_run: bool
    allow_failures: int
    reports: tuple[str, ...]
    json: bool
    verbose: bool


def start(given: Given) -> int:
    """Run, resume or only show a batch; the exit code. Nothing was changed where it isn't 0, 1 or 59."""
    try:
        reports = tuple(parse_report(text) for text in given.reports)
        for report in reports:
            require_writable(report.path, f"--report {report.kind}")
        if given.dry_run:
            return _show(_prepared(given))
        begun = _resumed(given) if given.resume else _begun(given)
        try:
            settings = _settings(given, begun)
        except BaseException:
            begun.ledger.close()
            raise
    except (PlanError, JournalError) as error:
        return _fail(str(error), ExitCode.INPUT)
    except RunFailure as failure:
        return _fail(failure.line(), ExitCode(failure.code))
    return execute(begun, settings)


def plan_of(given: Given) -> tuple[Plan, Path]:
    """The plan and the folder that its paths are relative to. Raises `PlanError`."""
    if given.what is None:
        raise PlanError("say what to do: a plan file, or an instruction with --each")
    path = Path(given.what)
    if given.what.endswith(".toml") or (path.is_file() and not given.sources):
        plan, folder = load_plan(path), path.resolve().parent
        if given.sources:
            raise PlanError("a plan names its own items; leave out --each and the like")
        data = plan.model_dump(mode="json", exclude_unset=True)
    else:
        if not given.sources:
            raise PlanError("an instruction needs items; add --each, --lines, --jsonl or --from-command")
        data, folder = {"prompt": given.what, "items": dict(given.sources)}, Path.cwd()
    return parse_plan(_changed(data, given), given.what if given.what.endswith(".toml") else _HERE), folder


def _changed(data: dict[str, Any], given: Given) -> dict[str, Any]:
    changed: dict[str, Any] = {**data, **given.changes}
    for name, part in (("budget", given.budget), ("total", given.total)):
        if part:
            changed[name] = {**changed.get(name, {}), **part}
    return changed


def _prepared(given: Given) -> Prepared:
    plan, folder = plan_of(given)
    directory = given.directory.resolve()
    if not directory.is_dir():
        raise RunFailure(Subtype.INPUT, f"{given.directory} is not a directory", "Check -C.")
    return prepare(plan, top_level(directory) or directory, folder)


def _begun(given: Given) -> Begun:
    prepared = _prepared(given)
    plan = prepared.charter.plan
    _executor(given, _model(plan), plan.jobs)  # what can't be done begins nothing
    sandbox = sandbox_of(plan, prepared.charter.directory)
    degraded = (f"commands run without a sandbox: {sandbox.reason}",) if sandbox.degraded else ()
    for note in (*prepared.notes, *degraded):
        print(f"dsv4: note: {plain_line(note)}", file=sys.stderr)
    return begin(prepared.charter)


def _resumed(given: Given) -> Begun:
    directory = given.directory.resolve()
    top = top_level(directory) or directory
    named = given.what is not None and not given.what.endswith(".toml")
    run = find_run(given.what if named else None, top)
    return go_on(run, plan_of(given)[0] if given.what is not None and not named else _as_begun(given, run))


def _as_begun(given: Given, run: RunFolder) -> Plan:
    """The plan that the batch began with and what is given beside it, which can't change it any more."""
    changes = dict(given.changes)
    if changes.get("model") == os.environ.get("DSV4_MODEL"):
        changes.pop("model", None)  # of the shell, and meant for what is begun there
    if given.sources:
        changes["items"] = dict(given.sources)
    data = read_ledger(run.path)[0].plan.model_dump(mode="json", exclude_unset=True)
    return parse_plan(_changed(data, replace(given, changes=changes)), _HERE)


def _settings(given: Given, begun: Begun) -> Settings:
    plan = begun.ledger.charter.plan
    model = _model(plan)
    return Settings(
        executor=_executor(given, model, plan.jobs),
        model=model,
        allowed_failures=given.allow_failures,
        reports=tuple(parse_report(text) for text in given.reports),
        json=given.json,
        verbose=given.verbose,
    )


def _model(plan: Plan) -> ModelChoice:
    """The plan's model. Raises `RunFailure` (52) for an unknown one."""
    name, _ = choose_model(ModelOptions(name=plan.model))
    return ModelChoice(name=name, effort=plan.effort, temperature=plan.temperature)


def _executor(given: Given, model: ModelChoice, jobs: int) -> Executor:
    """Who does the items. Nothing is started yet. Raises `RunFailure` where it can't be."""
    if given.executor is ExecutorKind.RAY:
        from dsv4_agent.batch.carried_model import CarriedModel
        from dsv4_agent.batch.ray_cluster import require_ray
        from dsv4_agent.batch.ray_executor import RayExecutor

        require_ray()
        return RayExecutor(CarriedModel.of(model), given.address, jobs)
    from dsv4_agent.batch.local import LocalExecutor
    from dsv4_agent.batch.model_host import ModelHost, can_host

    if given.address is not None:
        raise RunFailure(Subtype.INPUT, "--address is that of a Ray cluster", "Add --executor ray.")
    return LocalExecutor(ModelHost(model, jobs) if can_host(model.name) else None)


def _show(prepared: Prepared) -> int:
    charter: Charter = prepared.charter
    plan, items = charter.plan, charter.items
    for note in prepared.notes:
        print(f"note: {plain_line(note)}")
    for base in charter.bases.values():
        print(f"base: {base.commit[:12]} of {plain_line(str(base.repository))}")
    print(f"items: {len(items)}")
    for item in items:
        print(f"  {item.index + 1:>4}  {item.id}")
    first = items[0]
    print(f"\nprompt of {first.id}:\n{plain(Template.parse(plan.prompt or '').text(first.values))}")
    for command in plan.verify:
        print(f"\nverify: {plain(Template.parse(command).command(first.values))}")
    return ExitCode.OK


def _fail(text: str, code: ExitCode) -> int:
    print(f"dsv4: error: {plain_line(' '.join(text.split()))}", file=sys.stderr)
    return int(code)
