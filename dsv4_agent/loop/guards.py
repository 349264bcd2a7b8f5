"""Budgets and guards: what may stop a run or say a word to the model, kept out of the loop's body.

A guard answers with one of three verdicts; all guards are asked, a Stop outweighs an Inject outweighs a
Continue. One instance serves one run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

from dsv4_agent.loop.events import Event, ItemCompleted, ItemStatus, PermissionDenied, Subtype
from dsv4_agent.loop.events import FileChangeItem as FileChange
from dsv4_agent.loop.facts import Usage


@dataclass(frozen=True, slots=True)
class Continue:
    """Go on."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End the run."""

    subtype: Subtype
    message: str


@dataclass(frozen=True, slots=True)
class Inject:
    """Append this text for the model, as the user's side, and go on. `kind` names it in a notice."""

    kind: str
    text: str


Verdict = Continue | Stop | Inject


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """One finished call: what the model asked and was told, and whether files changed."""

    name: str
    arguments: Mapping[str, object]
    result: str
    changed: bool


@dataclass(frozen=True, slots=True)
class TurnOutcome:
    """What a turn came to. `follows_results`: it answered tool results rather than a prompt."""

    content: str
    calls: tuple[CallOutcome, ...]
    truncated: bool
    follows_results: bool


@dataclass(slots=True)
class RunState:
    """The counters of one run."""

    started: float = field(default_factory=monotonic)
    turns: int = 0
    tool_calls: int = 0
    usage: Usage = field(default_factory=Usage)
    denials: list[PermissionDenied] = field(default_factory=list)
    files_changed: dict[str, None] = field(default_factory=dict)
    answer: str = ""

    def note(self, event: Event) -> None:
        """Take in what an event says of refusals and changed files."""
        match event:
            case PermissionDenied():
                self.denials.append(event)
            case ItemCompleted(FileChange(changes=changes, status=ItemStatus.COMPLETED)):
                self.files_changed.update(dict.fromkeys(change.path for change in changes))


@dataclass(frozen=True, slots=True)
class Limits:
    """Budgets of one run, None for no limit. Time is in seconds, tokens are sampled ones."""

    max_turns: int | None = 200
    max_tokens: int | None = None
    max_time: float | None = None
    max_tool_calls: int | None = None
    max_tokens_per_turn: int = 65_536


class Guard:
    """A guard that never objects; subclasses override what they watch."""

    def before_turn(self, run: RunState) -> Verdict:
        """Asked before the model is."""
        return Continue()

    def before_call(self, run: RunState) -> Verdict:
        """Asked before each tool call; `Inject` is not possible here."""
        return Continue()

    def after_turn(self, run: RunState, outcome: TurnOutcome) -> Verdict:
        """Asked when a turn's tool calls are done, or when it had none."""
        return Continue()


class BudgetGuard(Guard):
    """Stops when a budget is spent."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def before_turn(self, run: RunState) -> Verdict:
        limits = self._limits
        if limits.max_turns is not None and run.turns >= limits.max_turns:
            return Stop(Subtype.MAX_TURNS, f"stopped after {run.turns} turns (--max-turns)")
        if limits.max_tokens is not None and run.usage.output_tokens >= limits.max_tokens:
            return Stop(Subtype.MAX_TOKENS, f"stopped after {run.usage.output_tokens} tokens (--max-tokens)")
        if limits.max_time is not None and monotonic() - run.started >= limits.max_time:
            return Stop(Subtype.MAX_TIME, f"stopped after {limits.max_time:g} s (--max-time)")
        return Continue()

    def before_call(self, run: RunState) -> Verdict:
        limit = self._limits.max_tool_calls
        if limit is not None and run.tool_calls >= limit:
            return Stop(Subtype.MAX_TOOL_CALLS, f"stopped after {limit} tool calls (--max-tool-calls)")
        return Continue()


class RepeatGuard(Guard):
    """Notices the same call giving the same result: a note the third time, the end after that.

    A call that changed files starts the count anew, since the same tests may then be run again for a reason.
    """

    def __init__(self, note_at: int = 3) -> None:
        self._note_at = note_at
        self._seen: dict[tuple[str, str], int] = {}

    def after_turn(self, run: RunState, outcome: TurnOutcome) -> Verdict:
        worst: Verdict = Continue()
        for call in outcome.calls:
            if call.changed:
                self._seen.clear()
            key = (call.name + json.dumps(call.arguments, sort_keys=True, default=str), call.result)
            count = self._seen[key] = self._seen.get(key, 0) + 1
            if count > self._note_at:
                text = f"the model repeated the same {call.name} call {count} times with the same result"
                return Stop(Subtype.LOOP, text + "; rephrase the task or take a stronger model")
            if count == self._note_at:
                worst = Inject(
                    "repeat",
                    f"Note: this exact {call.name} call has been made {count} times with the same result. "
                    "Do something else, or finish and say what is in the way.",
                )
        return worst


class EmptyAnswerGuard(Guard):
    """Asks once for an answer when the model ends with nothing after tool results."""

    def __init__(self) -> None:
        self._nudged = False

    def after_turn(self, run: RunState, outcome: TurnOutcome) -> Verdict:
        empty = not outcome.calls and not outcome.truncated and not outcome.content.strip()
        if not empty or not outcome.follows_results or self._nudged:
            return Continue()
        self._nudged = True
        return Inject("empty_answer", "Your answer was empty. Continue, or say in a sentence what was done.")


class TruncationGuard(Guard):
    """Tells the model that its turn was cut at the token limit; ends the run when that happens in a row."""

    def __init__(self, patience: int = 2) -> None:
        self._patience = patience
        self._row = 0

    def after_turn(self, run: RunState, outcome: TurnOutcome) -> Verdict:
        if not outcome.truncated:
            self._row = 0
            return Continue()
        self._row += 1
        if self._row > self._patience:
            return Stop(Subtype.MAX_TOKENS, f"{self._row} answers in a row were cut at the token limit")
        return Inject(
            "truncated",
            "Your last turn was cut off at the token limit; an unfinished tool call in it was not run. "
            "Continue in smaller steps.",
        )


class Guards(Guard):
    """All guards of one run as one: the built-in ones, then `more`."""

    def __init__(self, limits: Limits, more: Sequence[Guard] = ()) -> None:
        self._all = (BudgetGuard(limits), TruncationGuard(), RepeatGuard(), EmptyAnswerGuard(), *more)

    def before_turn(self, run: RunState) -> Verdict:
        return _weightiest([guard.before_turn(run) for guard in self._all])

    def before_call(self, run: RunState) -> Verdict:
        return _weightiest([guard.before_call(run) for guard in self._all])

    def after_turn(self, run: RunState, outcome: TurnOutcome) -> Verdict:
        return _weightiest([guard.after_turn(run, outcome) for guard in self._all])


def _weightiest(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict that decides: the first Stop, else the first Inject, else Continue."""
    for wanted in (Stop, Inject):
        for verdict in verdicts:
            if isinstance(verdict, wanted):
                return verdict
    return Continue()
