"""`dsv4 batch`: one instruction for many items, each in its own worktree, each verified by a command."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dsv4_agent.batch.choices import Conflicts, Delivery, ExecutorKind, Retry
from dsv4_agent.cli.batch_upkeep import check, clean, listed, schema
from dsv4_agent.permissions.decision import PermissionMode, SandboxMode
from dsv4_agent.workbench.model_options import Effort


class _PlanOrCommand(TyperGroup):
    """A first word that is no subcommand is the plan, or the instruction."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in self.commands:
            return super().resolve_command(ctx, args)
        return "run", self.commands["run"], args

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            close = get_close_matches(args[0], self.commands, cutoff=0.75)
            if close and not Path(args[0]).exists():
                ctx.fail(f"No such command or plan {args[0]!r}. Did you mean {close[0]!r}?")
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_PlanOrCommand,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Apply one instruction to many items, each in its own worktree, each verified by a command.\n\n"
    "dsv4 batch PLAN.toml, or dsv4 batch 'task with {path}' --each 'src/**/*.py' --verify 'pytest {tests}'; "
    "dsv4 batch run --help shows all options, dsv4 help batch the form of a plan.",
)
app.command("check")(check)
app.command("clean")(clean)
app.command("list")(listed)
app.command("schema")(schema)


@app.command("run")
def run(
    plan: Annotated[
        str | None,
        typer.Argument(metavar="PLAN|TASK", help="A plan file (.toml), or the instruction itself."),
    ] = None,
    each: Annotated[
        list[str] | None,
        typer.Option("--each", metavar="GLOB", help="An item a file of the base commit; {path}. Repeatable."),
    ] = None,
    lines: Annotated[
        Path | None, typer.Option("--lines", metavar="FILE", help="An item a line; {line}.")
    ] = None,
    jsonl: Annotated[
        Path | None, typer.Option("--jsonl", metavar="FILE", help="An item a JSON object; its keys.")
    ] = None,
    from_command: Annotated[
        str | None, typer.Option("--from-command", metavar="COMMAND", help="An item a line of its output.")
    ] = None,
    repositories: Annotated[
        list[str] | None,
        typer.Option("--repository", metavar="DIR", help="An item a git repository. Repeatable."),
    ] = None,
    verify: Annotated[
        list[str] | None,
        typer.Option("--verify", metavar="COMMAND", help="Must exit 0 for an item to be done. Repeatable."),
    ] = None,
    setup: Annotated[
        list[str] | None,
        typer.Option("--setup", metavar="COMMAND", help="Run first in each worktree. Repeatable."),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", metavar="PATTERN", help="Only such paths may change. Repeatable."),
    ] = None,
    retries: Annotated[
        int | None, typer.Option("--retries", min=0, help="Tries after a failed verify. Default 1.")
    ] = None,
    retry: Annotated[
        Retry | None,
        typer.Option("--retry", help="feedback: go on with what verify said; fresh: begin anew."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Items in progress at once. Default 4.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", envvar="DSV4_MODEL", help="As in run.")
    ] = None,
    effort: Annotated[Effort | None, typer.Option("--effort", help="How long to think.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", min=0.0)] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Makes sampling repeatable.")] = None,
    max_turns: Annotated[int | None, typer.Option("--max-turns", min=1, help="Budget of an item.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1, help="Budget of an item.")] = None,
    max_time: Annotated[float | None, typer.Option("--max-time", help="Budget of an item, seconds.")] = None,
    total_tokens: Annotated[
        int | None, typer.Option("--total-tokens", min=1, help="Budget of the batch: sampled tokens.")
    ] = None,
    total_time: Annotated[
        float | None, typer.Option("--total-time", help="Budget of the batch, seconds.")
    ] = None,
    permission_mode: Annotated[PermissionMode | None, typer.Option("--permission-mode")] = None,
    sandbox: Annotated[SandboxMode | None, typer.Option("--sandbox")] = None,
    allowed_tools: Annotated[list[str] | None, typer.Option("--allowed-tools", metavar="RULES")] = None,
    disallowed_tools: Annotated[list[str] | None, typer.Option("--disallowed-tools", metavar="RULES")] = None,
    deliver: Annotated[
        Delivery | None,
        typer.Option(
            "--deliver", help="Patch files; a branch of one commit, or of one an item; a branch each."
        ),
    ] = None,
    branch: Annotated[str | None, typer.Option("--branch", help="Name of what is delivered.")] = None,
    message: Annotated[str | None, typer.Option("--message", help="Commit message.")] = None,
    conflicts: Annotated[
        Conflicts | None,
        typer.Option("--conflicts", help="Report an item that conflicts, or do it again on what is in."),
    ] = None,
    base: Annotated[str | None, typer.Option("--base", metavar="REVISION", help="Default HEAD.")] = None,
    require_clean: Annotated[
        bool, typer.Option("--require-clean", help="Exit 58 at once on a dirty work tree.")
    ] = False,
    directory: Annotated[Path, typer.Option("-C", "--cd", metavar="DIR", help="The repository.")] = Path(),
    executor: Annotated[
        ExecutorKind, typer.Option("--executor", help="Processes here, or tasks of a Ray cluster.")
    ] = ExecutorKind.LOCAL,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="ADDRESS", help="Of the Ray cluster; auto: this machine's."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the batch named, or the last one not finished here.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the items and the first prompt; change nothing.")
    ] = False,
    allow_failures: Annotated[
        int, typer.Option("--allow-failures", min=0, metavar="N", help="Exit 0 with up to N failed.")
    ] = 0,
    report: Annotated[
        list[str] | None,
        typer.Option("--report", metavar="KIND=FILE", help="junit, sarif, markdown (appended)."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Every event on stdout, a JSON object a line.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Every step as a line.")] = False,
) -> None:
    """Run a plan, or an instruction with --each, --lines, --jsonl, --from-command or --repository."""
    from dsv4_agent.cli.batch_run import Given, start

    changes = {
        "verify": verify,
        "setup": setup,
        "allow": allow,
        "retries": retries,
        "retry": retry,
        "jobs": jobs,
        "model": model,
        "effort": None if effort is None else effort.value,
        "temperature": temperature,
        "seed": seed,
        "permission_mode": permission_mode,
        "sandbox": sandbox,
        "allowed_tools": allowed_tools,
        "disallowed_tools": disallowed_tools,
        "deliver": deliver,
        "branch": branch,
        "message": message,
        "conflicts": conflicts,
        "base": base,
        "require_clean": require_clean or None,
    }
    sources = {
        "glob": each,
        "lines": None if lines is None else str(lines.resolve()),
        "jsonl": None if jsonl is None else str(jsonl.resolve()),
        "command": from_command,
        "repositories": repositories and [str(Path(path).resolve()) for path in repositories],
    }
    budget = {"max_turns": max_turns, "max_tokens": max_tokens, "max_time": max_time}
    total = {"max_tokens": total_tokens, "max_time": total_time}
    given = Given(
        what=plan,
        sources=_set(sources),
        changes=_set(changes),
        budget=_set(budget),
        total=_set(total),
        directory=directory,
        executor=executor,
        address=address,
        resume=resume,
        dry_run=dry_run,
        allow_failures=allow_failures,
        reports=tuple(report or ()),
        json=json,
        verbose=verbose,
    )
    raise typer.Exit(start(given))


def _set(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
