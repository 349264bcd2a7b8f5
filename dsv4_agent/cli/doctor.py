"""`dsv4 doctor`: what this machine has and lacks, and whether the servers answer."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="NAME", help="Of the servers, ask only this one.")
    ] = None,
) -> None:
    """Look at the machine, the settings and every server; a remedy for each problem. Samples no tokens."""
    from dsv4_agent.workbench.doctor import examine
    from dsv4_agent.workbench.exit_codes import ExitCode
    from dsv4_agent.workbench.findings import any_problem, as_data, as_lines
    from dsv4_agent.workbench.plain_text import plain_line

    examined = examine(os.environ, model)
    ok = not any(any_problem(one.findings) for one in examined)
    if as_json:
        subjects = [{"title": one.title, "findings": as_data(one.findings)} for one in examined]
        print(json.dumps({"ok": ok, "examined": subjects}, ensure_ascii=False))
    else:
        blocks = ["\n".join([plain_line(one.title), *as_lines(one.findings)]) for one in examined]
        print("\n\n".join(blocks))
    raise typer.Exit(ExitCode.OK if ok else ExitCode.FAILED)
