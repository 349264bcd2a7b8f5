"""`dsv4 batch` in this process: reports, signals, and the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TextIO

from dsv4_agent.batch.events import BatchEnded, BatchEvent
from dsv4_agent.batch.executor import Executor
from dsv4_agent.batch.job import ModelChoice
from dsv4_agent.batch.one_batch import Begun, events_of
from dsv4_agent.batch.report.junit import junit
from dsv4_agent.batch.report.lines import Lines
from dsv4_agent.batch.report.markdown import markdown
from dsv4_agent.batch.report.records import record
from dsv4_agent.batch.report.sarif import sarif
from dsv4_agent.headless.atomic_file import write_atomically
from dsv4_agent.loop.events import Subtype
from dsv4_agent.session.journal import JournalError
from dsv4_agent.workbench.exit_codes import ExitCode, OwnSubtype
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.processes import adopt_orphans, kill_descendants


class ReportKind(StrEnum):
    """What `--report KIND=FILE` writes when the batch has ended; `markdown` is appended."""

    JUNIT = "junit"
    MARKDOWN = "markdown"
    SARIF = "sarif"


@dataclass(frozen=True, slots=True)
class Report:
    """One `--report`."""

    kind: ReportKind
    path: Path


class Screen(Protocol):
    """Shows events to a person."""

    def show(self, event: BatchEvent) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How one call of `dsv4 batch` runs. `json` puts every event on stdout."""

    executor: Executor
    model: ModelChoice
    allowed_failures: int = 0
    reports: Sequence[Report] = ()
    json: bool = False
    verbose: bool = False


def execute(begun: Begun, settings: Settings) -> int:
    """Do the batch and return the exit code; what stopped it can be mended and gone on with."""
    adopt_orphans()
    screen = _screen(settings)
    code = ExitCode.OK
    try:
        ended = asyncio.run(_conduct(begun, settings, screen))
        if isinstance(ended, BatchEnded):
            _write_reports(settings.reports, ended, begun.ledger.charter.plan.name)
            code = ExitCode.BATCH if ended.failed else ExitCode.OK
        else:
            code = ExitCode(128 + ended)
            _complain(screen, f"stopped; go on with: dsv4 batch --resume {begun.run.id}")
    except BrokenPipeError:
        code = ExitCode.SIGPIPE
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains while it shuts down
    except RunFailure as failure:
        code = ExitCode(failure.code)
        _complain(screen, f"{failure.line()} Then: dsv4 batch --resume {begun.run.id}")
    except JournalError as failure:
        code = ExitCode.TOOLS
        _complain(screen, f"{failure}. Then: dsv4 batch --resume {begun.run.id}")
    finally:
        screen.close()
        kill_descendants(grace=0.0)
    return int(code)


async def _conduct(begun: Begun, settings: Settings, screen: Screen) -> BatchEnded | int:
    """The last event, or the number of the signal that stopped the batch."""
    received: list[int] = []
    loop = asyncio.get_running_loop()
    work = asyncio.ensure_future(_listen(begun, settings, screen))

    def stop(number: int) -> None:
        received.append(number)
        work.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, signal.SIGTERM if number == signal.SIGHUP else number)
    try:
        return await work
    except asyncio.CancelledError:
        if not received:
            raise
        return received[0]


async def _listen(begun: Begun, settings: Settings, screen: Screen) -> BatchEnded:
    events = events_of(begun, settings.executor, settings.model, settings.allowed_failures)
    last: BatchEvent | None = None
    async with aclosing(events):
        async for event in events:
            screen.show(event)
            if settings.json:
                print(record(event), flush=True)
            last = event
    assert isinstance(last, BatchEnded), "a batch that was not stopped has an end"
    return last


def _screen(settings: Settings) -> Screen:
    if sys.stderr.isatty() and not settings.verbose:
        from rich.console import Console

        from dsv4_agent.batch.report.table import LiveTable

        console = Console(stderr=True)
        if console.is_terminal and not console.is_dumb_terminal:
            return LiveTable(console)
    return Lines(lambda line: _print(line, sys.stderr), verbose=settings.verbose)


def _print(line: str, stream: TextIO) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(line, file=stream, flush=True)


def _complain(screen: Screen, text: str) -> None:
    screen.close()
    _print(f"dsv4: error: {' '.join(text.split())}", sys.stderr)


def _write_reports(reports: Sequence[Report], ended: BatchEnded, name: str) -> None:
    for report in reports:
        match report.kind:
            case ReportKind.JUNIT:
                write_atomically(report.path, junit(ended, name))
            case ReportKind.SARIF:
                write_atomically(report.path, sarif(ended).encode())
            case ReportKind.MARKDOWN:
                _append(report.path, markdown(ended, name))


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        cause = f"{path} can't be written: {error.strerror}"
        raise RunFailure(OwnSubtype.TOOLS, cause, "Check the path and free space.") from error


def parse_report(text: str) -> Report:
    """`KIND=FILE`. Raises `RunFailure` (42)."""
    kind, sign, path = text.partition("=")
    if not sign or not path or kind not in list(ReportKind):
        known = ", ".join(f"{kind}=FILE" for kind in ReportKind)
        raise RunFailure(Subtype.INPUT, f"--report {text!r} is not understood", f"Write one of {known}.")
    return Report(ReportKind(kind), Path(path))
