"""`dsv4 serve --engine`: the command of another engine, printed or run."""

from __future__ import annotations

import os
import subprocess
import sys

from dsv4_agent.server.launch_commands import LaunchError, LaunchPlan, LaunchRequest, as_shell, launch_command
from dsv4_agent.workbench.exit_codes import ExitCode
from dsv4_agent.workbench.plain_text import plain, plain_line


def launch(request: LaunchRequest, *, run: bool) -> int:
    """Print the plan to stdout; or run it, in which case this returns only when it can't."""
    try:
        plan = launch_command(request)
    except LaunchError as error:
        return _failed(f"{error}.", ExitCode.CONFIG)
    if not run:
        print(plain(as_shell(plan)), end="")
        return int(ExitCode.OK)
    return _run(plan)


def _run(plan: LaunchPlan) -> int:
    """Run what prepares, then become the server."""
    for note in plan.notes:
        print(f"dsv4: {plain_line(note)}", file=sys.stderr)
    *before, serving = plan.commands
    program = serving[0]
    try:
        for command in before:
            program = command[0]
            done = subprocess.run(command, check=False)
            if done.returncode:
                return _failed(f"{program} ended with exit code {done.returncode}.", ExitCode.FAILED)
        program = serving[0]
        sys.stdout.flush()
        sys.stderr.flush()
        os.execvp(program, serving)
    except FileNotFoundError:
        return _failed(f"{program} is not installed here. Install it, or leave out --run.", ExitCode.CONFIG)
    except OSError as error:
        return _failed(f"{program} can't be run: {error.strerror}.", ExitCode.CONFIG)


def _failed(message: str, code: ExitCode) -> int:
    print(f"dsv4: error: {plain_line(message)}", file=sys.stderr)
    return int(code)
