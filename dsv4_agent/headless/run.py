"""`dsv4 run`: from options to exit code. Whatever happens, one result goes out and no traceback."""

from __future__ import annotations

import logging
import warnings
from typing import Final

from dsv4_agent.headless.conclusion import Result, failed, summarised
from dsv4_agent.headless.interrupts import Interrupted, Interrupts
from dsv4_agent.headless.options import RunOptions
from dsv4_agent.headless.progress import Progress
from dsv4_agent.headless.reporter import Reporter
from dsv4_agent.headless.standard_output import StandardOutput
from dsv4_agent.loop.events import Subtype
from dsv4_agent.workbench.crash_report import CrashLog, write_crash_report
from dsv4_agent.workbench.exit_codes import ExitCode
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.processes import adopt_orphans, kill_descendants

_GRACE: Final = 5.0  # seconds that processes left behind by tools get to end themselves


def execute(options: RunOptions) -> int:
    """Do the task in this process (it takes over stdout and signals) and return the exit code."""
    interrupts = Interrupts()
    interrupts.install()
    adopt_orphans()
    warnings.simplefilter("ignore")
    reporter = Reporter(options, StandardOutput.claim(), Progress())
    try:
        result = summarised(_guarded(options, reporter, interrupts), options, reporter.progress.notice)
        reporter.result(result)
        code = int(result["exit_code"])
    except BrokenPipeError:
        code = ExitCode.SIGPIPE
    except OSError as error:  # stdout on a full disk: there is nowhere left to put a result
        reporter.progress.error(f"the output can't be written: {error.strerror}. Free some space.")
        code = ExitCode.TOOLS
    except Interrupted:
        code = interrupts.code
    kill_descendants(grace=_GRACE if interrupts.received is None else 0.5)
    interrupts.ended()
    return int(code)


def _guarded(options: RunOptions, reporter: Reporter, interrupts: Interrupts) -> Result:
    """Run, and turn every way of failing but an unwritable stdout into a result."""
    crashes = CrashLog()
    for layer in ("dsv4_agent", "dsv4_tools", "dsv4_model", "asyncio"):
        logging.getLogger(layer).addHandler(crashes)
    logging.lastResort = None
    session_id = options.session_id or ""
    try:
        # Imported here, so that a broken installation ends in a result as well.
        from dsv4_agent.headless.task import Task

        task = Task(options, reporter, interrupts, crashes)
        try:
            return task.run()
        finally:
            session_id = task.session_id
    except RunFailure as failure:
        return failed(failure, session_id)
    except (Interrupted, KeyboardInterrupt):
        return failed(RunFailure(Subtype.ABORTED, "interrupted", code=interrupts.code), session_id)
    except Exception as error:
        if isinstance(error, OSError) and reporter.broken:
            raise
        where = write_crash_report(error)
        remedy = f"Report: {where}" if where else ""
        return failed(
            RunFailure(Subtype.INTERNAL, f"internal error ({type(error).__name__})", remedy), session_id
        )
