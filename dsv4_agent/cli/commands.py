"""The command tree: commands are imported only when they are named."""

from __future__ import annotations

import importlib
from difflib import get_close_matches
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from dsv4_agent.version import __version__

_MODULES: Final = {
    "chat": "dsv4_agent.cli.chat",
    "run": "dsv4_agent.cli.run",
    "batch": "dsv4_agent.cli.batch",
    "serve": "dsv4_agent.cli.serve",
    "demo": "dsv4_agent.cli.demo",
    "model": "dsv4_agent.cli.model",
    "doctor": "dsv4_agent.cli.doctor",
    "cache": "dsv4_agent.cli.cache",
    "debug": "dsv4_agent.cli.debug",
    "help": "dsv4_agent.cli.help_topics",
}


class LazyCommands(TyperGroup):
    """Finds a command's module by name; each module has an `app`."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_MODULES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _MODULES:
            return None
        command = typer.main.get_command(importlib.import_module(_MODULES[cmd_name]).app)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        # Typer's own suggestions know only commands that are loaded already.
        if args and args[0] not in _MODULES and (close := get_close_matches(args[0], _MODULES)):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {close[0]!r}?")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="dsv4",
    cls=LazyCommands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"dsv4 {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """A terminal coding agent made for DeepSeek-V4."""
