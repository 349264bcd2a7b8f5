"""`dsv4 batch check`, `list`, `clean` and `schema`: plans before they run, batches after they ran."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from dsv4_agent.workbench.exit_codes import ExitCode
from dsv4_agent.workbench.plain_text import plain_line


def check(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan file.")],
    directory: Annotated[Path, typer.Option("-C", "--cd", metavar="DIR", help="The repository.")] = Path(),
) -> None:
    """Check a plan, its items and what it delivers, without a model; exit 42 where something is wrong."""
    from dsv4_agent.batch.plan import PlanError, load_plan
    from dsv4_agent.batch.preparation import prepare
    from dsv4_agent.workbench.failures import RunFailure
    from dsv4_agent.workbench.git_command import top_level

    if not directory.is_dir():
        _fail(f"{directory} is not a directory. Check -C.", ExitCode.INPUT)
    try:
        top = top_level(directory.resolve()) or directory.resolve()
        prepared = prepare(load_plan(plan), top, plan.resolve().parent)
    except PlanError as error:
        _fail(str(error), ExitCode.INPUT)
    except RunFailure as failure:
        _fail(failure.line(), ExitCode(failure.code))
    for note in prepared.notes:
        print(f"note: {plain_line(note)}")
    count = len(prepared.charter.items)
    print(f"{plan} is good: {count} item{'' if count == 1 else 's'}")


def schema() -> None:
    """Print the JSON Schema of plan files, for editors and checkers."""
    from dsv4_agent.batch.plan import plan_schema

    print(json.dumps(plan_schema(), indent=2))


def listed() -> None:
    """List batches, the newest first."""
    from dsv4_agent.batch.ledger import final_states, read_ledger
    from dsv4_agent.batch.plan import PlanError
    from dsv4_agent.batch.report.wording import counted
    from dsv4_agent.batch.runs import all_runs
    from dsv4_agent.session.journal import JournalError

    runs = list(all_runs())
    if not runs:
        print("no batches yet", file=sys.stderr)
    for run in runs:
        try:
            charter, progress = read_ledger(run.path)
        except (PlanError, JournalError) as error:
            print(f"{run.id}  unreadable: {plain_line(str(error), 100)}")
            continue
        status = "ended" if progress.ended else "running" if run.is_running() else "unfinished"
        results = final_states(charter.items, progress)
        waiting = 0 if progress.ended else len(results) - len(progress.results)
        known = [result for id, result in results.items() if progress.ended or id in progress.results]
        parts = (counted(known) if known else "", f"{waiting} to do" if waiting else "")
        counts = ", ".join(filter(None, parts))
        print(f"{run.id}  {status}  {counts}  {plain_line(str(charter.directory))}")


def clean(
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Also of batches that could be gone on with.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Ledgers, journals and patches of ended batches as well.")
    ] = False,
) -> None:
    """Remove worktrees that batches left behind; never those of a running one."""
    from dsv4_agent.batch.upkeep import clean_up

    removed, failed = clean_up(unfinished=unfinished, everything=everything)
    for what in removed:
        print(f"removed {what}")
    if failed:
        _fail(failed[0], ExitCode.TOOLS)
    if not removed:
        print("nothing to clean")


def _fail(text: str, code: ExitCode) -> NoReturn:
    print(f"dsv4: error: {plain_line(' '.join(text.split()))}", file=sys.stderr)
    raise typer.Exit(int(code))
