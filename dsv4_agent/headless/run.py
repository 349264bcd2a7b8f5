"""`dsv4 run`: from options to exit code. Whatever happens, one result goes out and no traceback."""

from __future__ import annotations

import asyncio
import logging
import warnings
from contextlib import aclosing
from typing import Final

from dsv4_agent.headless.assemble import build_agent, open_session
from dsv4_agent.headless.atomic_file import require_writable
from dsv4_agent.headless.carried_budget import CarriedBudget
from dsv4_agent.headless.conclusion import Result, as_object, conclude, ended, failed
from dsv4_agent.headless.crash_report import CrashLog, write_crash_report
from dsv4_agent.headless.exit_codes import ExitCode, OwnSubtype
from dsv4_agent.headless.failures import RunFailure
from dsv4_agent.headless.git_state import Repository
from dsv4_agent.headless.interrupts import Interrupted, Interrupts
from dsv4_agent.headless.models import OpenedModel, open_model
from dsv4_agent.headless.options import RunOptions
from dsv4_agent.headless.output_schema import Mismatch, OutputSchema
from dsv4_agent.headless.processes import adopt_orphans, kill_descendants
from dsv4_agent.headless.progress import Progress
from dsv4_agent.headless.prompt_input import read_prompt
from dsv4_agent.headless.reporter import Reporter
from dsv4_agent.headless.standard_output import StandardOutput
from dsv4_agent.loop.agent import Agent
from dsv4_agent.loop.events import RunResult, Subtype, Usage
from dsv4_agent.loop.guards import Limits
from dsv4_agent.session.session import Session

_GRACE: Final = 5.0  # seconds that processes left behind by tools get to end themselves


def execute(options: RunOptions) -> int:
    """Do the task in this process (it takes over stdout and signals) and return the exit code."""
    interrupts = Interrupts()
    interrupts.install()
    adopt_orphans()
    warnings.simplefilter("ignore")
    reporter = Reporter(options, StandardOutput.claim(), Progress(options.directory))
    run = _Run(options, reporter, interrupts)
    try:
        code = run.guarded()
    except BrokenPipeError:
        code = ExitCode.SIGPIPE
    except OSError as error:  # stdout on a full disk: there is nowhere left to put a result
        reporter.progress.error(f"the output can't be written: {error.strerror}. Free some space.")
        code = ExitCode.TOOLS
    except Interrupted:
        code = interrupts.code
    kill_descendants(grace=_GRACE if interrupts.received is None else 0.5)
    return int(code)


class _Run:
    """One task; `session_id` and `result` are what is known so far, for whoever has to end it."""

    def __init__(self, options: RunOptions, reporter: Reporter, interrupts: Interrupts) -> None:
        self._options = options
        self._reporter = reporter
        self._interrupts = interrupts
        self._crashes = CrashLog()
        self._session_id = options.session_id or ""

    def guarded(self) -> int:
        """Run, and turn every way of failing into a result and its exit code."""
        logging.getLogger("dsv4_agent").addHandler(self._crashes)
        logging.getLogger("dsv4_tools").addHandler(self._crashes)
        logging.lastResort = None
        try:
            result = self._run()
        except RunFailure as failure:
            result = failed(failure, self._session_id)
        except BrokenPipeError:
            raise
        except (Interrupted, KeyboardInterrupt):
            code = self._interrupts.code
            result = failed(RunFailure(Subtype.ABORTED, "interrupted", code=code), self._session_id)
        except Exception as error:
            where = write_crash_report(error)
            cause = f"internal error ({type(error).__name__}){f'; report: {where}' if where else ''}"
            result = failed(RunFailure(Subtype.INTERNAL, cause), self._session_id)
        self._reporter.result(result)
        return int(result["exit_code"])

    def _run(self) -> Result:
        options, notify = self._options, self._reporter.progress.notice
        self._check_paths()
        prompt = read_prompt(options.prompt, notify)
        schema = None if options.output_schema is None else OutputSchema.load(options.output_schema)
        repository = Repository(options.directory.resolve())
        try:
            self._check_repository(repository)
            model = open_model(options)
            for note in model.notes:
                notify(note)
            session = open_session(options)
            self._session_id = session.id
            try:
                result = self._ask(prompt, schema, model, session, repository)
            finally:
                session.close()
            return conclude(result, options, repository)
        finally:
            repository.close()

    def _check_paths(self) -> None:
        options = self._options
        if not options.directory.is_dir():
            raise RunFailure(Subtype.INPUT, f"{options.directory} is not a directory", "Check -C.")
        reports = {
            "--patch": options.patch_file,
            "--output-last-message": options.last_message_file,
            "--summary": options.summary_file,
        }
        for option, path in reports.items():
            if path is not None:
                require_writable(path, option)

    def _check_repository(self, repository: Repository) -> None:
        if not repository.is_git and not self._options.skip_git_repo_check:
            cause = f"{self._options.directory.resolve()} is not a git repository"
            remedy = "Run git init there, choose another with -C, or pass --skip-git-repo-check."
            raise RunFailure(Subtype.INPUT, cause, remedy)
        if self._options.require_clean and repository.dirty:
            cause = "the work tree has uncommitted changes (--require-clean)"
            raise RunFailure(OwnSubtype.DIRTY_TREE, cause, "Commit or stash them.")

    def _ask(
        self,
        prompt: str,
        schema: OutputSchema | None,
        model: OpenedModel,
        session: Session,
        repository: Repository,
    ) -> Result:
        limits = _limits(self._options)
        budget = CarriedBudget(limits)
        agent = build_agent(self._options, model, session, repository, limits, (budget,))
        if schema is not None:
            prompt = f"{prompt}\n\n{schema.instruction()}"
        try:
            result = asyncio.run(self._converse(agent, prompt, schema, budget, model))
        finally:
            self._interrupts.on_signal(None)
        self._interrupts.settled()
        if result["subtype"] == Subtype.ABORTED:
            return ended(result, Subtype.ABORTED, result["error"], self._interrupts.code)
        if result["subtype"] == Subtype.INTERNAL and session.failed:
            return ended(result, OwnSubtype.TOOLS, result["error"])
        if result["subtype"] == Subtype.INTERNAL and self._crashes.report is not None:
            return {**result, "error": f"internal error; report: {self._crashes.report}"}
        return result

    async def _converse(
        self,
        agent: Agent,
        prompt: str,
        schema: OutputSchema | None,
        budget: CarriedBudget,
        model: OpenedModel,
    ) -> Result:
        loop = asyncio.get_running_loop()
        self._interrupts.on_signal(lambda: loop.call_soon_threadsafe(agent.stop))
        try:
            first = await self._answer(agent, prompt)
            if schema is None or first.is_error:
                return as_object(first)
            try:
                return {**as_object(first), "structured_output": schema.check(first.result)}
            except Mismatch as mismatch:
                budget.next_run()
                second = await self._answer(agent, f"{mismatch} Answer again, with the JSON alone.")
            result = _added(first, second)
            if second.is_error:
                return result
            try:
                return {**result, "structured_output": schema.check(second.result)}
            except Mismatch as mismatch:
                return ended(result, Subtype.SCHEMA, " ".join(str(mismatch).split()))
        finally:
            await model.backend.close()

    async def _answer(self, agent: Agent, prompt: str) -> RunResult:
        result: RunResult | None = None
        async with aclosing(agent.run(prompt)) as events:
            async for event in events:
                if isinstance(event, RunResult):
                    result = event
                else:
                    self._reporter.event(event)
        assert result is not None, "the loop promises a result, last"
        return result


def _limits(options: RunOptions) -> Limits:
    given = {
        "max_turns": options.max_turns,
        "max_tokens": options.max_tokens,
        "max_time": options.max_time,
        "max_tool_calls": options.max_tool_calls,
    }
    return Limits(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def _added(first: RunResult, second: RunResult) -> Result:
    """The second run's result with the first one's spending and denials added."""
    result = as_object(second)
    usage: Usage = first.usage + second.usage
    whole = as_object(first)
    return {
        **result,
        "num_turns": first.num_turns + second.num_turns,
        "duration_ms": first.duration_ms + second.duration_ms,
        "usage": {name: getattr(usage, name) for name in result["usage"]},
        "permission_denials": [*whole["permission_denials"], *result["permission_denials"]],
    }
