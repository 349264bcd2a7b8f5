"""`dsv4 run`: the command line of a headless task."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from dsv4_agent.cli.engine_options import (
    CacheFormatOption,
    DeviceOption,
    MemoryBudgetOption,
    NoServerOption,
    ThreadsOption,
)
from dsv4_agent.dsml.dialect import GrammarMode
from dsv4_agent.headless.options import OutputFormat, RunOptions
from dsv4_agent.headless.prompt_input import PromptSource
from dsv4_agent.permissions.decision import PermissionMode, SandboxMode
from dsv4_agent.permissions.rules import Rule, RuleError, parse_rules
from dsv4_agent.workbench.model_options import Effort, EngineChoice, ModelOptions

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_NO_REPOSITORY_CONFIG = (
    "Nothing from the repository (hooks, settings, memory files) is loaded in this version"
)


def _duration(text: str) -> float:
    found = _DURATION.fullmatch(text.strip())
    if not found or float(found[1]) <= 0:
        raise typer.BadParameter(f"{text!r} is not a time: write seconds, or 90s, 5m, 1h")
    return float(found[1]) * _SECONDS[found[2]]


def _rules(texts: list[str] | None, option: str) -> tuple[Rule, ...]:
    try:
        return tuple(rule for text in texts or [] for rule in parse_rules(text))
    except RuleError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _names(texts: list[str] | None) -> tuple[str, ...] | None:
    if texts is None:
        return None
    names = tuple(name for text in texts for name in re.split(r"[,\s]+", text) if name)
    for name in names:
        if not _NAME.fullmatch(name):
            raise typer.BadParameter(f"{name!r} is not a tool's name", param_hint="--tools")
    return names


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def run(
    prompt: Annotated[
        str | None, typer.Argument(help="The task; - reads it from stdin. Piped data is appended to it.")
    ] = None,
    print_mode: Annotated[
        bool, typer.Option("-p", "--print", hidden=True, help="Accepted for habit: run never opens a screen.")
    ] = False,
    prompt_file: Annotated[
        Path | None, typer.Option("--prompt-file", metavar="FILE", help="Read the task from a file.")
    ] = None,
    directory: Annotated[
        Path, typer.Option("-C", "--cd", metavar="DIR", help="Work in this directory.")
    ] = Path(),
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            envvar="DSV4_MODEL",
            metavar="nano|PATH|NAME|scripted:FILE",
            help="The built-in model, a checkpoint folder, a server (dsv4 model list), or a played script "
            "(dsv4 help scripted). Default: model of your settings, else nano.",
        ),
    ] = None,
    output_format: Annotated[
        OutputFormat, typer.Option("--output-format", help="What stdout carries (dsv4 help events).")
    ] = OutputFormat.TEXT,
    json: Annotated[bool, typer.Option("--json", help="Same as --output-format stream-json.")] = False,
    include_partial: Annotated[
        bool, typer.Option("--include-partial", help="stream-json: text as it comes, as item.delta.")
    ] = False,
    include_reasoning: Annotated[
        bool, typer.Option("--include-reasoning", help="stream-json: with the text of the model's thinking.")
    ] = False,
    last_message: Annotated[
        Path | None,
        typer.Option("-o", "--output-last-message", metavar="FILE", help="Also write the answer to a file."),
    ] = None,
    output_schema: Annotated[
        str | None,
        typer.Option(
            "--output-schema",
            "--json-schema",
            metavar="FILE|JSON",
            help="The answer must be JSON that satisfies this schema; one retry, then exit 56.",
        ),
    ] = None,
    max_turns: Annotated[int | None, typer.Option("--max-turns", min=1, help="Budget: model turns.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="Budget: sampled tokens.")
    ] = None,
    max_time: Annotated[
        float | None,
        typer.Option("--max-time", parser=_duration, metavar="TIME", help="Budget: seconds, or 90s, 5m, 1h."),
    ] = None,
    max_tool_calls: Annotated[
        int | None, typer.Option("--max-tool-calls", min=0, help="Budget: tool calls.")
    ] = None,
    tools: Annotated[
        list[str] | None, typer.Option("--tools", metavar="NAMES", help="Offer the model only these tools.")
    ] = None,
    allowed_tools: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-tools",
            "--allowedTools",
            metavar="RULES",
            help="Allow without asking, e.g. 'shell(git status:*)'. Repeat, or separate by commas.",
        ),
    ] = None,
    disallowed_tools: Annotated[
        list[str] | None,
        typer.Option("--disallowed-tools", "--disallowedTools", metavar="RULES", help="Always deny."),
    ] = None,
    permission_mode: Annotated[
        PermissionMode,
        typer.Option(
            "--permission-mode",
            help="plan changes nothing; otherwise edits are allowed, shell commands by rule or with auto.",
        ),
    ] = PermissionMode.DEFAULT,
    sandbox: Annotated[
        SandboxMode | None,
        typer.Option(
            "--sandbox",
            help="read-only refuses every change; workspace-write confines commands with bubblewrap (exit 44 "
            "without it). Default: workspace-write where bubblewrap works, else none, which init reports.",
        ),
    ] = None,
    effort: Annotated[
        Effort | None, typer.Option("--effort", help="How long to think; off: not at all.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", min=0.0, help="Default 1, built-in model 0.", show_default=False),
    ] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", min=0.0, max=1.0, help="Default 1.0.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Makes sampling repeatable.")] = None,
    grammar: Annotated[
        GrammarMode,
        typer.Option(
            "--grammar",
            help="Sample only calls of the declared tools; counted: say what would break that rule.",
        ),
    ] = GrammarMode.ON,
    cache_format: CacheFormatOption = None,
    memory_budget: MemoryBudgetOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    no_server: NoServerOption = False,
    patch: Annotated[
        Path | None,
        typer.Option(
            "--patch",
            metavar="FILE",
            help="Write what the run changed as a git patch; no untracked file over 16 MB, no submodule.",
        ),
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option("--summary", metavar="FILE", help="Append a Markdown summary, as for GitHub steps."),
    ] = None,
    fail_if_no_changes: Annotated[
        bool, typer.Option("--fail-if-no-changes", help="Exit 58 where no file has changed.")
    ] = False,
    fail_on_denied: Annotated[
        bool, typer.Option("--fail-on-denied", help="Exit 57 where a tool call was denied.")
    ] = False,
    require_clean: Annotated[
        bool, typer.Option("--require-clean", help="Exit 58 at once on a dirty work tree.")
    ] = False,
    skip_git_repo_check: Annotated[
        bool, typer.Option("--skip-git-repo-check", help="Work outside a git repository too.")
    ] = False,
    ephemeral: Annotated[
        bool, typer.Option("--ephemeral", help="Leave no session journal and no KV state behind.")
    ] = False,
    session_id: Annotated[
        str | None, typer.Option("--session-id", metavar="ID", help="Name the session.")
    ] = None,
    trust: Annotated[
        bool,
        typer.Option("--trust", help=f"Say that the repository is trusted. {_NO_REPOSITORY_CONFIG}."),
    ] = False,
    bare: Annotated[
        bool, typer.Option("--bare", help=f"No hooks, skills, memory. {_NO_REPOSITORY_CONFIG}: always true.")
    ] = False,
    ignore_user_config: Annotated[
        bool,
        typer.Option("--ignore-user-config", help="No user settings (run reads model, [models], [engine])."),
    ] = False,
) -> None:
    """Do one task without a screen: the answer on stdout, progress on stderr (dsv4 help exit-codes)."""
    options = RunOptions(
        prompt=PromptSource(prompt, prompt_file),
        directory=directory,
        model=ModelOptions(
            local_server=not no_server,
            name=model,
            effort=effort,
            temperature=temperature,
            top_p=top_p,
            grammar=grammar,
            tools=_names(tools),
            engine=EngineChoice(
                cache_format=cache_format,
                memory_budget=memory_budget,
                device=device,
                threads=threads,
                keep_conversations=not ephemeral,
                user_settings=not ignore_user_config,
            ),
        ),
        output_format=OutputFormat.STREAM_JSON if json else output_format,
        include_partial=include_partial,
        include_reasoning=include_reasoning,
        last_message_file=last_message,
        output_schema=output_schema,
        max_turns=max_turns,
        max_tokens=max_tokens,
        max_time=max_time,
        max_tool_calls=max_tool_calls,
        allowed_tools=_rules(allowed_tools, "--allowed-tools"),
        disallowed_tools=_rules(disallowed_tools, "--disallowed-tools"),
        permission_mode=permission_mode,
        sandbox=sandbox,
        seed=seed,
        patch_file=patch,
        summary_file=summary,
        fail_if_no_changes=fail_if_no_changes,
        fail_on_denied=fail_on_denied,
        require_clean=require_clean,
        skip_git_repo_check=skip_git_repo_check,
        ephemeral=ephemeral,
        session_id=session_id,
        trust=trust,
    )
    from dsv4_agent.headless.run import execute

    raise typer.Exit(execute(options))
