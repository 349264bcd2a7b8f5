"""`dsv4 model`: the models there are, what they cost, whether they fit and whether they answer."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from dsv4_agent.cli.model_export import export
from dsv4_agent.cli.model_profiles import add, list_models, remove, test, use
from dsv4_agent.cli.model_routing import routing
from dsv4_model.accounting import CacheFormat

app = typer.Typer(
    help="Models: those there are, what they cost, whether they fit, servers that have them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
"""Other subcommands are functions of their own files, added here with `app.command()`."""
app.command("list")(list_models)
app.command()(add)
app.command()(use)
app.command()(remove)
app.command()(test)
app.command()(export)
app.command()(routing)


@app.callback()
def _group() -> None:
    """Models: those there are, what they cost, whether they fit, servers that have them."""


@app.command()
def info(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A checkpoint folder, a config.json, or nano.")],
    context: Annotated[
        int | None,
        typer.Option(
            "--context", min=1, metavar="TOKENS", help="Default: 131072, or the model's maximum if smaller."
        ),
    ] = None,
    cache_format: Annotated[
        CacheFormat, typer.Option("--cache-format", help="How the KV cache is stored.")
    ] = CacheFormat.FP8_FP4,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Show parameters, bytes of weights and KV cache, FLOPs, and whether the model fits this machine."""
    from dsv4_agent.cli.model_report import ModelInputError, as_json_text, as_text, gather

    try:
        report = gather(path, context, cache_format)
    except ModelInputError as error:
        from dsv4_agent.workbench.exit_codes import ExitCode

        print(f"dsv4: error: {_one_line(str(error))}", file=sys.stderr)
        raise typer.Exit(ExitCode.INPUT) from None
    text = as_json_text(report) if as_json else as_text(report)
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode(sys.stdout.encoding or "utf-8", "replace"))
    sys.stdout.buffer.flush()


def _one_line(text: str) -> str:
    """Paths and configuration values may hold anything, also what a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
