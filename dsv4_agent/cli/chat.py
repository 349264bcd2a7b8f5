"""`dsv4 chat`: the command line of the interactive front ends."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dsv4_agent.chat.options import ChatOptions
from dsv4_agent.cli.engine_options import (
    CacheFormatOption,
    DeviceOption,
    MemoryBudgetOption,
    NoServerOption,
    ThreadsOption,
)
from dsv4_agent.cli.front_end import wants_plain
from dsv4_agent.permissions.decision import PermissionMode, SandboxMode
from dsv4_agent.permissions.rules import Rule, RuleError, parse_rules
from dsv4_agent.workbench.model_options import NANO, Effort, EngineChoice, ModelOptions
from dsv4_agent.workbench.settings import FILE, Settings, SettingsError, config_directory, load_settings

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)


def _rules(texts: list[str] | None, option: str) -> tuple[Rule, ...]:
    try:
        return tuple(rule for text in texts or [] for rule in parse_rules(text))
    except RuleError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def chat(
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
            help="The built-in model, a checkpoint folder, a server (dsv4 model list), or a played script.",
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", "-r", metavar="ID|TITLE|last", help="Take up an earlier session."),
    ] = None,
    proceed: Annotated[
        bool, typer.Option("--continue", "-c", help="Take up the newest session of this directory.")
    ] = False,
    permission_mode: Annotated[
        PermissionMode | None,
        typer.Option("--permission-mode", help="Who is asked before what; Shift+Tab changes it."),
    ] = None,
    sandbox: Annotated[
        SandboxMode | None, typer.Option("--sandbox", help="What commands can possibly touch.")
    ] = None,
    allowed_tools: Annotated[
        list[str] | None,
        typer.Option("--allowed-tools", "--allowedTools", metavar="RULES", help="Allow without asking."),
    ] = None,
    disallowed_tools: Annotated[
        list[str] | None,
        typer.Option("--disallowed-tools", "--disallowedTools", metavar="RULES", help="Always deny."),
    ] = None,
    effort: Annotated[
        Effort | None, typer.Option("--effort", help="How long to think; off: not at all.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=0.0, help="Default 1, built-in model 0.")
    ] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", min=0.0, max=1.0)] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Makes sampling repeatable.")] = None,
    cache_format: CacheFormatOption = None,
    memory_budget: MemoryBudgetOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    no_server: NoServerOption = False,
    plain: Annotated[
        bool,
        typer.Option(
            "--plain", help="Labelled lines instead of a screen; taken by itself on a dumb terminal."
        ),
    ] = False,
) -> None:
    """Open the chat in a repository: talk, watch the model work, approve or refuse."""
    try:
        settings = load_settings()
        mode = permission_mode or PermissionMode(settings.permission_mode or PermissionMode.DEFAULT)
    except (SettingsError, ValueError) as error:
        print(f"dsv4: error: {error}", file=sys.stderr)
        raise typer.Exit(52) from error
    if not directory.is_dir():
        print(f"dsv4: error: {directory} is not a directory. Check -C.", file=sys.stderr)
        raise typer.Exit(42)
    options = ChatOptions(
        directory=directory,
        model=ModelOptions(
            local_server=not no_server,
            name=model or settings.chat_model or settings.model or NANO,
            effort=effort,
            temperature=temperature,
            top_p=top_p,
            engine=EngineChoice(
                cache_format=cache_format, memory_budget=memory_budget, threads=threads, device=device
            ),
        ),
        permission_mode=mode,
        sandbox=sandbox,
        allowed_tools=_rules(allowed_tools, "--allowed-tools"),
        disallowed_tools=_rules(disallowed_tools, "--disallowed-tools"),
        resume="last" if proceed and resume is None else resume,
        seed=seed,
    )
    raise typer.Exit(_plain(options) if plain or wants_plain() else _screen(options, settings))


def _screen(options: ChatOptions, settings: Settings) -> int:
    from dsv4_agent.tui.app import ChatApp
    from dsv4_agent.tui.key_bindings import key_bindings

    if unknown := sorted(set(settings.keys) - {binding.id for binding in key_bindings()}):
        where = config_directory() / FILE
        print(
            f"dsv4: error: {where}: [keys] {unknown[0]} is unknown; see dsv4 help settings", file=sys.stderr
        )
        return 52
    chat_app = ChatApp(options, settings)
    try:
        chat_app.run()
    except OSError:  # the terminal is gone, so nothing can be said; the session is on disk
        return chat_app.return_code or 129
    return chat_app.return_code or 0


def _plain(options: ChatOptions) -> int:
    import asyncio

    from dsv4_agent.plain.app import chat as plain_chat

    return asyncio.run(plain_chat(options))
