"""A `!` line: a command of the user's own, run as their shell would, with its output kept for the model."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from dsv4_tools.base import ToolContext, ToolError
from dsv4_tools.sandbox.direct import Direct
from dsv4_tools.shell import Shell, ShellArgs
from dsv4_tools.workspace import Workspace

TIMEOUT = 600
"""Seconds."""


async def run_own(command: str, workspace: Workspace) -> tuple[str, int | None]:
    """Output (bounded, with the exit code as its last line) and exit code; cancelling ends the command."""
    with tempfile.TemporaryDirectory(prefix="dsv4-shell-") as folder:
        context = ToolContext(workspace, Path(folder), Direct(), os.environ)
        try:
            result = await Shell().run(ShellArgs(command=command, timeout=TIMEOUT), context)
        except ToolError as error:
            return str(error), None
    return result.text, result.exit_code
