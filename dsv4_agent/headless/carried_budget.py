"""One budget over several runs of an agent: a retry for the output schema must not get a second one."""

from __future__ import annotations

from time import monotonic

from dsv4_agent.loop.events import Subtype
from dsv4_agent.loop.facts import Usage
from dsv4_agent.loop.guards import Continue, Guard, Limits, RunState, Stop, Verdict


class CarriedBudget(Guard):
    """Adds what earlier runs have spent to the run at hand."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._turns = self._calls = 0
        self._usage = Usage()
        self._last: RunState | None = None
        self._begun = monotonic()

    def next_run(self) -> None:
        """The run that was watched is over; its spending counts from now on."""
        if self._last is not None:
            self._turns += self._last.turns
            self._calls += self._last.tool_calls
            self._usage += self._last.usage
        self._last = None

    def before_turn(self, run: RunState) -> Verdict:
        self._last = run
        limits = self._limits
        if limits.max_turns is not None and self._turns + run.turns >= limits.max_turns:
            return Stop(Subtype.MAX_TURNS, f"stopped after {limits.max_turns} turns (--max-turns)")
        spent = self._usage.output_tokens + run.usage.output_tokens
        if limits.max_tokens is not None and spent >= limits.max_tokens:
            return Stop(Subtype.MAX_TOKENS, f"stopped after {spent} tokens (--max-tokens)")
        if limits.max_time is not None and monotonic() - self._begun >= limits.max_time:
            return Stop(Subtype.MAX_TIME, f"stopped after {limits.max_time:g} s (--max-time)")
        return Continue()

    def before_call(self, run: RunState) -> Verdict:
        limit = self._limits.max_tool_calls
        if limit is not None and self._calls + run.tool_calls >= limit:
            return Stop(Subtype.MAX_TOOL_CALLS, f"stopped after {limit} tool calls (--max-tool-calls)")
        return Continue()
