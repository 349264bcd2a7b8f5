"""One headless task: check the input, load the model, let the agent work, judge what came of it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from dsv4_agent.headless.assemble import build_agent, open_session
from dsv4_agent.headless.atomic_file import require_writable
from dsv4_agent.headless.carried_budget import CarriedBudget
from dsv4_agent.headless.conclusion import Result, as_object, conclude, ended
from dsv4_agent.headless.interrupts import Interrupts
from dsv4_agent.headless.options import RunOptions
from dsv4_agent.headless.output_schema import Mismatch, OutputSchema
from dsv4_agent.headless.prompt_input import read_prompt
from dsv4_agent.headless.reporter import Reporter
from dsv4_agent.loop.agent import Agent
from dsv4_agent.loop.events import RunResult, Subtype
from dsv4_agent.loop.facts import Usage
from dsv4_agent.loop.guards import Limits
from dsv4_agent.session.session import Session
from dsv4_agent.workbench.begun_repository import BegunRepository
from dsv4_agent.workbench.crash_report import CrashLog
from dsv4_agent.workbench.exit_codes import OwnSubtype
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.git_command import top_level, why_no_top_level
from dsv4_agent.workbench.git_state import Repository
from dsv4_agent.workbench.models import OpenedModel, open_model


class Task:
    """Runs once. `session_id` is known as soon as there is a session."""

    def __init__(
        self, options: RunOptions, reporter: Reporter, interrupts: Interrupts, crashes: CrashLog
    ) -> None:
        self.session_id = options.session_id or ""
        self._options = options
        self._reporter = reporter
        self._interrupts = interrupts
        self._crashes = crashes

    def run(self) -> Result:
        """The result, everything written. Raises `RunFailure`, `Interrupted`, and what stdout raises."""
        options, notify = self._options, self._reporter.progress.notice
        self._check_paths()
        prompt = read_prompt(options.prompt, notify)
        schema = None if options.output_schema is None else OutputSchema.load(options.output_schema)
        directory = options.directory.resolve()
        if not options.skip_git_repo_check and top_level(directory) is None:
            cause, remedy = why_no_top_level(directory)
            remedy = f"{remedy.capitalize()}, choose another with -C, or pass --skip-git-repo-check."
            raise RunFailure(Subtype.INPUT, cause, remedy)
        begun = BegunRepository(directory)
        try:
            if options.patch_file is not None or options.require_clean:
                self._check_repository(begun.ready())
            model = open_model(options.model)
            repository = begun.ready()
            for note in model.notes:
                notify(note)
            session = open_session(options)
            self.session_id = session.id
            try:
                result = self._ask(prompt, schema, model, session, repository)
            finally:
                session.close()
            return conclude(result, options, repository, notify)
        finally:
            begun.close()

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
                require_writable(path, option, claimed=True)

    def _check_repository(self, repository: Repository) -> None:
        if self._options.patch_file is not None and not repository.recorded:
            cause = "--patch: the directory is too large to be compared without git"
            raise RunFailure(Subtype.INPUT, cause, "Run git init there.")
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
        answer_schema = None if schema is None else schema.grammar
        agent = build_agent(
            self._options, model, session, repository, limits, (budget,), answer_schema=answer_schema
        )
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
            return {**result, "error": f"internal error. Report: {self._crashes.report}"}
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
                return _with_value(as_object(first), schema)
            except Mismatch as mismatch:
                budget.next_run()
                second = await self._answer(agent, f"{mismatch} Answer again, with the JSON alone.")
            result = _added(first, second)
            if second.is_error:
                return result
            try:
                return _with_value(result, schema)
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


def _with_value(result: Result, schema: OutputSchema) -> Result:
    """The result with its answer as data. Raises `Mismatch`.

    A schema that can't be applied ends the run, which keeps what it did: the changed files and their patch.
    """
    try:
        return {**result, "structured_output": schema.check(result["result"])}
    except RunFailure as failure:
        return ended(result, failure.ending, failure.line(), failure.code)


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
