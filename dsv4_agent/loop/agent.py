"""The agent loop: ask the model, run its calls, give back the results, until it answers or must stop.

    prompt -> journal -> transcript -> backend -> parser -> events
           -> permission -> journal -> tool -> journal -> transcript -> backend ...

`Agent.run` is an async generator of events; it has no callbacks and knows no front end.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from dsv4_agent.backends.base import Backend, ModelError
from dsv4_agent.dsml.dialect import Thinking
from dsv4_agent.dsml.events import ParsedCall, ParsedMessage
from dsv4_agent.loop.approval import Answer
from dsv4_agent.loop.asking import Asking
from dsv4_agent.loop.author import Author, Result
from dsv4_agent.loop.calls import CallRunner, Checkpoint
from dsv4_agent.loop.context import ContextMeter, RunFacts, entry_tokens
from dsv4_agent.loop.event_json import to_json
from dsv4_agent.loop.events import (
    ApprovalRequested,
    Compacted,
    Event,
    Init,
    ItemDelta,
    Notice,
    PrefixBreak,
    Rewound,
    RunResult,
    Subtype,
    TurnCompleted,
    TurnStarted,
    UserMessage,
)
from dsv4_agent.loop.guards import (
    CallOutcome,
    Guard,
    Guards,
    Inject,
    Limits,
    RunState,
    Stop,
    TurnOutcome,
    Verdict,
)
from dsv4_agent.loop.interrupt import Interrupt, InterruptedRunError
from dsv4_agent.loop.preset import Preset
from dsv4_agent.loop.reports import init_event, result_event
from dsv4_agent.loop.resumption import answers_results, last_message, recount
from dsv4_agent.loop.toolbox import Toolbox
from dsv4_agent.permissions.decision import Policy
from dsv4_agent.session.journal import JournalError
from dsv4_agent.session.session import Session
from dsv4_prompts import prompt as prompt_text

_log = logging.getLogger(__name__)


class _StoppedError(Exception):
    """A guard or an impossibility ended the run."""

    def __init__(self, subtype: Subtype, message: str) -> None:
        super().__init__(message)
        self.subtype = subtype


class Agent:
    """One conversation with one model. Call `run` once a prompt, one at a time.

    System prompt and tool schemas are written when the first run starts and never again. `guards` come
    on top of the built-in ones. `answer_schema` is the JSON schema of answers, where the backend can hold
    the model to it.
    """

    def __init__(
        self,
        backend: Backend,
        session: Session,
        toolbox: Toolbox,
        preset: Preset,
        policy: Policy,
        *,
        facts: RunFacts,
        limits: Limits | None = None,
        seed: int | None = None,
        guards: Sequence[Guard] = (),
        checkpoint: Checkpoint | None = None,
        answer_schema: Mapping[str, object] | None = None,
    ) -> None:
        self.session = session
        self._backend = backend
        self._toolbox = toolbox
        self._preset = preset
        self._facts = facts
        self._limits = limits or Limits()
        self._extra_guards = tuple(guards)
        self._guards = Guards(self._limits)
        self._interrupt = Interrupt()
        self._ids = itertools.count(1)
        self._meter = ContextMeter(session, backend.info.context_window, preset.system_prompt)
        self._asking = Asking(
            session, backend, toolbox, self._meter, self._interrupt, self._new_id, seed, answer_schema
        )
        self._sampler = self._asking.sampler(preset)
        self._pending: list[Result] = []
        self._steering: list[tuple[str, str | None]] = []
        self._author = Author(session, backend, preset, toolbox.functions, facts)
        self._calls = CallRunner(
            session, toolbox, policy, self._interrupt, self._new_id, checkpoint=checkpoint
        )

    @property
    def policy(self) -> Policy:
        """What calls may do; may be exchanged at any time and holds from the next call on."""
        return self._calls.policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._calls.policy = policy

    def stop(self) -> None:
        """End the running turn; the run then ends as `aborted`. For signal handlers of the event loop."""
        self._interrupt.stop()

    def answer(self, id: str, answer: Answer) -> bool:
        """Answer an `ApprovalRequested`; False where nobody waits for it (any more)."""
        return self._calls.approvals.answer(id, answer)

    def steer(self, text: str, note: str | None = None) -> None:
        """Say something to the model while it works: it reads it with the next results, or goes on for it.

        `note` is for the model only, as in `run`.
        """
        self._steering.append((text, note))

    def take_steering(self) -> list[tuple[str, str | None]]:
        """What was said by `steer` and has not been read; it is forgotten here."""
        taken, self._steering = self._steering, []
        return taken

    def rewind(self, kept: int) -> Rewound:
        """Between runs, go back to before prompt number `kept` (from 0). Raises as `Session.rewind`."""
        self.session.rewind(kept)
        self._meter.rewound()
        event = Rewound(kept)
        self._record(event)
        return event

    async def run(self, prompt: str, note: str | None = None) -> AsyncGenerator[Event, None]:
        """Answer one prompt. Yields `Init` first and `RunResult` last, whatever happens in between.

        `note` is for the model only, in front of the prompt: what changed since it was last told.

        Cancelling the task ends the run at once, without a `RunResult`; processes are gone and what had been
        sampled is in the journal when the cancellation returns.
        """
        async with aclosing(self._conduct(lambda run: self._run(prompt, note, run))) as events:
            async for event in events:
                yield event

    async def resume(self) -> AsyncGenerator[Event, None]:
        """Go on with the run that the session's last prompt began and no process finished; events as of it.

        Calls that ended are answered from the record. With a checkpoint, one that was interrupted is taken
        back and runs again, so that the run goes on as if nothing had happened.
        """
        async with aclosing(self._conduct(self._resume)) as events:
            async for event in events:
                yield event

    async def compact(self, wishes: str = "") -> AsyncGenerator[Event, None]:
        """Have the model sum up the conversation and go on from that; events as of a run.

        What comes of it is `Compacted`; without that event everything is as it was. `wishes` says what the
        summary should keep.
        """
        async with aclosing(self._conduct(lambda run: self._compact(wishes, run))) as events:
            async for event in events:
                yield event

    def opening_price(self, preset: Preset) -> int:
        """Tokens that to compute again under another preset; 0 where the opening stays the same."""
        entries = self.session.transcript.entries
        opening = replace(self._author, preset=preset).opening()
        # What a server makes of effort is its own affair, and at the beginning of its prompt.
        known = self._preset
        same = (preset.effort, preset.thinking) == (known.effort, known.thinking)
        unchanged = same or not self._backend.info.renders
        if not entries or (unchanged and entries[0].segments == opening.segments):
            return 0
        return self._meter.used

    def use(self, preset: Preset) -> PrefixBreak | None:
        """Between runs: sample under another preset (same tools, same format) from now on.

        What that costs is `opening_price`; where it is not 0, the break is recorded and returned.
        """
        price = self.opening_price(preset)
        self._preset = preset
        self._author = replace(self._author, preset=preset)
        if price == 0:
            return None
        event = PrefixBreak("another opening", price)
        self._record(event)
        self.session.replace_prompt(self._author.opening())
        return event

    async def _conduct(
        self, work: Callable[[RunState], AsyncGenerator[Event, None]]
    ) -> AsyncGenerator[Event, None]:
        """Do one run's work with its guards and deadline; whatever happens, its result comes last."""
        run = RunState()
        self._guards = Guards(self._limits, self._extra_guards)
        self._interrupt.reset()
        limit = self._limits.max_time
        self._interrupt.deadline = None if limit is None else run.started + limit
        ending, error = Subtype.SUCCESS, None
        try:
            async with aclosing(work(run)) as events:
                async for event in events:
                    run.note(event)
                    yield self._record(event)
        except (_StoppedError, InterruptedRunError) as stop:
            ending, error = stop.subtype, str(stop)
        except ModelError as failure:
            ending, error = (Subtype.AUTH if failure.unreachable else Subtype.MODEL), str(failure)
        except JournalError as failure:
            ending, error = Subtype.INTERNAL, str(failure)
        except Exception as failure:
            _log.exception("the run failed")
            ending, error = Subtype.INTERNAL, f"internal error: {failure!r}"
        yield self._result(run, ending, error)

    async def _run(self, prompt: str, note: str | None, run: RunState) -> AsyncGenerator[Event, None]:
        yield self._init()
        if not prompt.strip():
            raise _StoppedError(Subtype.INPUT, "the prompt is empty: say what should be done")
        self._author.open(prompt, note)
        yield UserMessage(prompt)
        async with aclosing(self._turns(run, None)) as events:
            async for event in events:
                yield event

    async def _resume(self, run: RunState) -> AsyncGenerator[Event, None]:
        yield self._init()
        if not self.session.prompts:
            raise _StoppedError(Subtype.INPUT, "there is nothing to go on with: begin with a prompt")
        recount(run, self.session)
        thinking = self._preset.thinking is Thinking.THINKING
        message = last_message(self.session, self._toolbox.schemas, self._backend.vocabulary, thinking)
        async with aclosing(self._turns(run, message)) as events:
            async for event in events:
                yield event

    async def _turns(self, run: RunState, unfinished: ParsedMessage | None) -> AsyncGenerator[Event, None]:
        """Turn after turn until one has no calls; `unfinished` was sampled by an earlier process."""
        while True:
            if unfinished is None:
                self._heed(self._guards.before_turn(run))
                turn = self._turn(run)
            else:
                turn = self._act(run, self.session.transcript.turn, unfinished)
                unfinished = None
            async with aclosing(turn) as events:
                async for event in events:
                    yield event
            verdict = self._guards.after_turn(run, self._outcome)
            self._heed(verdict)
            said = self.take_steering()
            if isinstance(verdict, Inject):
                yield Notice(verdict.kind, verdict.text)
            elif not self._pending and not said:
                return
            words = [verdict.text] if isinstance(verdict, Inject) else []
            words += [word for text, note in said for word in (note, text) if word]
            self._author.answer(self._pending, "\n\n".join(words) or None)
            self._pending = []
            for text, _ in said:
                yield UserMessage(text, steering=True)

    async def _compact(self, wishes: str, run: RunState) -> AsyncGenerator[Event, None]:
        before = self._meter.used
        if not self.session.prompts:
            raise _StoppedError(Subtype.INPUT, "there is nothing to compact yet")
        yield PrefixBreak("compaction", before - entry_tokens(self.session.transcript.entries[0]))
        mark = len(self.session.prompts)
        self._author.open("\n\n".join(filter(None, (prompt_text("compaction"), wishes))))
        try:
            async with aclosing(self._ask(run, self._room(run))) as events:
                async for event in events:
                    yield event
            summary = run.answer
            if not summary:
                raise ModelError("the model gave no summary: try /compact again, or start a new session")
        except BaseException:
            self.session.rewind(mark)
            raise
        self.session.rewind(mark)  # the request for a summary is none of the person's prompts
        self.session.compact(summary)
        self._meter.rewound()
        yield Compacted(summary, before, self._meter.used)

    async def _turn(self, run: RunState) -> AsyncGenerator[Event, None]:
        """One assistant turn and its calls. Leaves `_outcome` and `_pending` (results) behind."""
        turn = self.session.transcript.turn + 1
        room = self._room(run)
        run.turns += 1
        yield TurnStarted(turn)
        async with aclosing(self._ask(run, room)) as events:
            async for event in events:
                yield event
        sampler = self._sampler
        async with aclosing(self._act(run, turn, sampler.message)) as events:
            async for event in events:
                yield event
        speeds = sampler.speeds()
        yield TurnCompleted(turn, sampler.run_usage(), speeds.prefill, speeds.decode)

    async def _act(self, run: RunState, turn: int, message: ParsedMessage) -> AsyncGenerator[Event, None]:
        """Do the calls of a sampled turn, but for those that are on record."""
        self._pending = [Result(f"Error: {text}") for text in message.errors]
        # What could not be read as a call counts as one, so that the repeat guard sees it.
        done = [CallOutcome("unreadable", {}, result.text, changed=False) for result in self._pending]
        for index, call in enumerate(message.calls):
            async with aclosing(self._call(run, turn, index, call)) as events:
                async for event in events:
                    yield event
            if self._calls.outcome is not None:
                done.append(self._calls.outcome)
                self._pending.append(Result(self._calls.outcome.result, call.id))
        follows_results = answers_results(self.session)
        self._outcome = TurnOutcome(message.content, tuple(done), message.truncated, follows_results)

    async def _ask(self, run: RunState, room: int) -> AsyncGenerator[Event, None]:
        """Sample a turn, count it, and leave it in `_sampler`."""
        sampler = self._sampler = self._asking.sampler(self._preset)
        async with aclosing(self._asking.ask(sampler, self._preset, room)) as events:
            async for event in events:
                yield event
        run.usage += sampler.run_usage()
        run.answer = sampler.message.content.strip() or run.answer
        yield self._meter.update(sampler)

    async def _call(
        self, run: RunState, turn: int, index: int, call: ParsedCall
    ) -> AsyncGenerator[Event, None]:
        self._heed(self._guards.before_call(run))
        run.tool_calls += 1
        if await self._calls.take_back(turn, index, call):
            return
        async with aclosing(self._calls.run(turn, index, call)) as events:
            async for event in events:
                yield event

    def _room(self, run: RunState) -> int:
        """Tokens the model may sample now. Raises `_StoppedError` where the window is full."""
        room = self._meter.room()
        if room is None:
            raise _StoppedError(Subtype.MAX_TOKENS, self._meter.full())
        budget = self._limits.max_tokens
        left = room if budget is None else budget - run.usage.output_tokens
        return min(room, left, self._limits.max_tokens_per_turn, self._preset.max_tokens_per_turn)

    def _heed(self, verdict: Verdict) -> None:
        if isinstance(verdict, Stop):
            raise _StoppedError(verdict.subtype, verdict.message)

    def _record(self, event: Event) -> Event:
        """Journal an event before anyone sees it; deltas are only shown, their whole follows."""
        if not isinstance(event, ItemDelta):
            waits = isinstance(event, ApprovalRequested | RunResult)
            self.session.record_event(to_json(event), sync=waits)
        return event

    def _init(self) -> Init:
        return init_event(self.session, self._backend.info, self._facts, self.policy, self._toolbox.names)

    def _result(self, run: RunState, ending: Subtype, error: str | None) -> Event:
        result = result_event(self.session, run, ending, error)
        try:
            return self._record(result)
        except JournalError as failure:
            if ending is not Subtype.SUCCESS:
                return result
            return result_event(self.session, run, Subtype.INTERNAL, str(failure))

    def _new_id(self) -> str:
        return f"i{next(self._ids)}"
