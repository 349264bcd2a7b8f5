"""Setup and verify commands: a shell in the worktree, sandboxed like the agent's own, with a time limit."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dsv4_agent.workbench.exit_codes import OwnSubtype
from dsv4_agent.workbench.failures import RunFailure
from dsv4_tools.base import ToolError
from dsv4_tools.environment import find_program, scrubbed
from dsv4_tools.output import OutputBuffer
from dsv4_tools.processes import run_process
from dsv4_tools.sandbox.base import Sandbox

_LIMIT = 8_000
"""Characters of output that are kept for the model and the reports; the whole is in a file."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a list of commands ended: at the first that failed, or well. `output` is the last one's, cut."""

    command: str
    exit_code: int | None
    output: str
    timed_out: bool = False

    @property
    def ok(self) -> bool:
        """Whether all exited 0."""
        return self.exit_code == 0

    def reason(self) -> str:
        """In a few words, why it is not ok."""
        if self.timed_out:
            return f"`{self.command}` took too long"
        return (
            f"`{self.command}` was stopped"
            if self.exit_code is None
            else f"`{self.command}` exited {self.exit_code}"
        )


@dataclass(frozen=True, slots=True)
class Commands:
    """Where and how commands run. `seconds` is the limit of each."""

    worktree: Path
    spill: Path
    sandbox: Sandbox

    async def run(self, commands: Sequence[str], seconds: float) -> Outcome:
        """Run them in order until one fails. Raises `RunFailure` (54) where no shell can be started."""
        outcome = Outcome("", 0, "")
        for command in commands:
            outcome = await self._one(command, seconds)
            if not outcome.ok:
                break
        return outcome

    async def _one(self, command: str, seconds: float) -> Outcome:
        environment = scrubbed(os.environ)
        bash = find_program("bash", environment, self.worktree)
        if bash is None:
            raise RunFailure(OwnSubtype.TOOLS, "bash was not found on PATH", "Install it.")
        argv = [bash, "--noprofile", "--norc", "-c", command]
        wrapped = self.sandbox.wrap(argv, workspace=self.worktree, environment=environment)
        output = OutputBuffer(self.spill, "command")
        try:
            ended = await run_process(
                wrapped.argv,
                cwd=self.worktree,
                environment=wrapped.environment,
                seconds=seconds,
                output=output,
            )
        except ToolError as error:
            raise RunFailure(OwnSubtype.TOOLS, str(error), "Check the batch's folder.") from error
        finally:
            wrapped.settle()
        kept = await asyncio.to_thread(output.finish)
        return Outcome(command, ended.exit_code, kept.text, ended.timed_out)
