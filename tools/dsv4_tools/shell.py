"""Run a shell command in the workspace."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from dsv4_tools.base import Effect, Status, Tool, ToolContext, ToolError, ToolResult
from dsv4_tools.environment import find_program, scrubbed
from dsv4_tools.output import OutputBuffer
from dsv4_tools.processes import BYTE_LIMIT, run_process


class ShellArgs(BaseModel):
    """Arguments of `shell`."""

    command: str = Field(description="Bash command line, run in the workspace root.")
    timeout: int = Field(
        default=120, ge=1, le=3600, description="Seconds after which the command is stopped."
    )


class Shell(Tool[ShellArgs]):
    """`shell`: one bash command line in a fresh shell, sandboxed as the session says."""

    name: ClassVar[str] = "shell"
    Args: ClassVar[type[BaseModel]] = ShellArgs
    effect: ClassVar[Effect] = Effect.EXECUTE

    async def run(self, args: ShellArgs, context: ToolContext) -> ToolResult:
        """Run it; the last line of the text is the exit code or says that time ran out."""
        if not args.command.strip():
            raise ToolError("command is empty.")
        if "\0" in args.command:
            raise ToolError("command contains a NUL byte.")
        root = context.workspace.root
        environment = scrubbed(context.environment)
        bash = find_program("bash", environment, root)
        if bash is None:
            raise ToolError("bash was not found on PATH.")
        argv = [bash, "--noprofile", "--norc", "-c", args.command]
        wrapped = context.sandbox.wrap(argv, workspace=root, environment=environment)
        output = OutputBuffer(context.spill_dir, "shell")
        removed: str | None = None
        try:
            ended = await run_process(
                wrapped.argv, cwd=root, environment=wrapped.environment, seconds=args.timeout, output=output
            )
        finally:
            removed = wrapped.settle()
        kept = output.finish()
        if ended.timed_out:
            status, last = Status.TIMED_OUT, f"[timed out after {args.timeout} s]"
        elif ended.flooded:
            status, last = Status.FAILED, f"[stopped: more than {BYTE_LIMIT // 1_000_000} MB of output]"
        else:
            status = Status.FAILED if ended.exit_code else Status.COMPLETED
            last = f"[exit {ended.exit_code}]"
        return ToolResult(
            "\n".join(filter(None, (kept.text, removed, last))),
            status=status,
            exit_code=ended.exit_code,
            truncated=kept.omitted > 0,
            output_path=kept.path,
        )
