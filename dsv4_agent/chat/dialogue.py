"""One chat as an actor: front ends send intents and read one stream of events.

    front end -> submit | interrupt | answer | ... -> queue of jobs -> agent -> events -> front end

Everything happens in one event loop; what blocks goes to a thread. Nothing here knows a screen.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from enum import StrEnum
from typing import TYPE_CHECKING

from dsv4_agent.chat.events import ChatEvent, PlanReady, ShellRan
from dsv4_agent.chat.options import ChatOptions
from dsv4_agent.chat.phases import follow
from dsv4_agent.chat.status import Phase, Status, describe
from dsv4_agent.loop.events import ApprovalRequested, Event, Notice, RunResult, Subtype, UserMessage
from dsv4_agent.workbench.model_options import NANO

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from dsv4_agent.chat.conversation import Conversation
    from dsv4_agent.chat.errands import Errand
    from dsv4_agent.permissions.decision import PermissionMode
    from dsv4_agent.workbench.model_options import Effort, ModelOptions

Job = Callable[[], Awaitable[None]]


class Choice(StrEnum):
    """A person's answer to a question about a call."""

    ONCE = "once"
    SESSION = "session"
    ALWAYS = "always"
    NO = "no"


class Dialogue:
    """Start `run` as a task, read `events`, call the rest as the person acts. All in one event loop."""

    def __init__(self, options: ChatOptions) -> None:
        self.options = options
        self.status = Status(model=options.model.name or NANO, mode=options.permission_mode.value)
        self.conversation: Conversation | None = None
        self.pending: list[str] = []
        self._out: asyncio.Queue[ChatEvent] = asyncio.Queue()
        self._jobs: deque[Job] = deque()
        self._wake = asyncio.Event()
        self._running = False
        self._preparing = False
        self._unwanted = False
        self._shell: asyncio.Task[tuple[str, int | None]] | None = None
        self._questions: dict[str, ApprovalRequested] = {}

    # -- the stream --------------------------------------------------------------------------------------

    async def events(self) -> AsyncIterator[ChatEvent]:
        """Everything there is to show, in order, for ever."""
        while True:
            yield await self._out.get()

    async def run(self) -> None:
        """Open the model, then do what is asked for until cancelled. Never raises but for that."""
        try:
            await self._guarded(self._open)
            while True:
                while self._jobs:
                    await self._guarded(self._jobs.popleft())
                self._wake.clear()
                await self._wake.wait()
        finally:
            await self._close()

    @property
    def at_work(self) -> bool:
        """Whether anything is under way or waits for its turn, the opening included."""
        return self.status.phase is Phase.LOADING or self._wake.is_set()

    # -- intents -----------------------------------------------------------------------------------------

    async def submit(self, text: str, typed: str | None = None) -> None:
        """Say something: a prompt, or, while the agent works, a word that it reads as soon as it can.

        `typed` is what the person wrote, without what was pasted: mentions are looked for in it.
        """
        agent = self.conversation.agent if self.conversation is not None else None
        self.pending.append(text)
        self.status.queued = len(self.pending)
        if self._running and agent is not None:
            agent.steer(text, await self._attachments(text, typed))
        else:
            self._do(functools.partial(self._prompt, text, typed))

    def take_back(self) -> str | None:
        """The newest thing that was said and has not been read yet; it is then unsaid."""
        agent = self.conversation.agent if self.conversation is not None else None
        if not self.pending or not self._running or agent is None:
            return None
        waiting = agent.take_steering()
        if not waiting:
            return None
        *rest, (text, _) = waiting
        for said, note in rest:
            agent.steer(said, note)
        self.pending.pop()
        self.status.queued = len(self.pending)
        return text

    def interrupt(self) -> bool:
        """Stop what runs, keeping what was done; False where nothing does."""
        if self._shell is not None:
            self._shell.cancel()
            return True
        if self._running and self.conversation is not None and self.conversation.agent is not None:
            self.status.enter(Phase.STOPPING)
            self.conversation.agent.stop()
            return True
        if self._preparing:
            self._unwanted = True
            self.status.enter(Phase.STOPPING)
        return self._preparing

    def answer(self, id: str, choice: Choice, reason: str = "") -> None:
        """Answer a question about a call."""
        from dsv4_agent.chat.standing_rules import rules_for
        from dsv4_agent.loop.approval import Answer

        question = self._questions.pop(id, None)
        if question is None or self.conversation is None or self.conversation.agent is None:
            return
        lasting = choice in (Choice.SESSION, Choice.ALWAYS)
        rules = rules_for(question.tool, question.input) if lasting else ()
        if choice is Choice.ALWAYS:
            standing = self.conversation.setting.rules
            standing.add(rules)
            if standing.warning:
                self._say("warning", standing.warning)
        self.conversation.agent.answer(id, Answer(choice is not Choice.NO, reason, rules))

    def set_mode(self, mode: PermissionMode) -> None:
        """Ask more or less from the next call on."""
        self.status.mode = mode.value
        if self.conversation is not None:
            self.conversation.set_mode(mode)

    def shell(self, command: str) -> None:
        """Run a command of the person's own; the model reads its output with the next prompt."""
        self._do(functools.partial(self._run_shell, command))

    def compact(self, wishes: str = "") -> None:
        """Have the conversation summed up."""
        self._do(functools.partial(self._compact, wishes))

    def begin_anew(self) -> None:
        """Start a new conversation; the old one stays on disk."""
        from dsv4_agent.chat.errands import begin_anew

        self._do(functools.partial(self._errand, begin_anew))

    def resume(self, wanted: str) -> None:
        """Take up another session: an id, the beginning of one, a title, or `last`."""
        from dsv4_agent.chat.errands import resume

        self._do(functools.partial(self._errand, functools.partial(resume, wanted)))

    def rewind(self, kept: int) -> str | None:
        """Go back to before prompt number `kept`; its text, or None where that can't be done now."""
        busy = self._running or self._preparing
        if busy or self.conversation is None or kept >= len(self.conversation.prompts):
            return None
        text, event = self.conversation.rewind(kept)
        self._see(event)
        return text

    def set_effort(self, effort: Effort) -> None:
        """Think harder or less; what it costs is shown first (`Conversation.effort_price`)."""
        from dsv4_agent.chat.errands import set_effort

        self._do(functools.partial(self._errand, functools.partial(set_effort, effort)))

    def load_model(self, options: ModelOptions) -> None:
        """Go on with another model, in a new conversation."""
        self._do(functools.partial(self._load_model, options))

    def undo(self) -> None:
        """Take back the changes of the last run."""
        from dsv4_agent.chat.errands import undo

        self._do(functools.partial(self._errand, undo))

    # -- jobs --------------------------------------------------------------------------------------------

    def _do(self, job: Job) -> None:
        self._jobs.append(job)
        self._wake.set()

    async def _guarded(self, job: Job) -> None:
        """Do a job; a failure is a notice with its remedy."""
        from dsv4_agent.session.journal import JournalError
        from dsv4_agent.workbench.failures import RunFailure

        try:
            await job()
        except RunFailure as failure:
            self._say("error", failure.line())
        except JournalError as failure:
            self._say("error", str(failure))
        except Exception as error:
            from dsv4_agent.workbench.crash_report import write_crash_report

            where = write_crash_report(error)
            report = f" Report: {where}" if where else ""
            self._say("error", f"internal error ({type(error).__name__}); the chat goes on.{report}")
        if not self._running:
            self.status.enter(Phase.FAILED if self.conversation is None else Phase.IDLE)

    async def _open(self) -> None:
        self.conversation = await asyncio.to_thread(_open_conversation, self.options)
        for note in self.conversation.model.notes:
            self._say("info", note)
        if warning := self.conversation.setting.rules.warning:
            self._say("warning", warning)
        self.conversation.set_mode(_mode(self.status.mode))  # it may have been changed meanwhile
        self._describe()
        if self.options.resume is not None:
            from dsv4_agent.chat.errands import resume, tell_of_a_new_session

            # Behind the reason, should this fail.
            self._jobs.appendleft(functools.partial(self._errand, tell_of_a_new_session))
            await self._errand(functools.partial(resume, self.options.resume))

    async def _prompt(self, text: str, typed: str | None) -> None:
        if (conversation := await self._opened()) is None:
            self._read(text)
            return
        self._preparing, self._unwanted = True, False
        try:
            agent = await asyncio.to_thread(conversation.ready, text)
            attached = await self._attachments(text, typed)
            before = await asyncio.to_thread(conversation.snapshot)
        except BaseException:
            self._read(text)
            raise
        finally:
            self._preparing = False
        if self._unwanted:
            self._read(text)
            self._say("warning", f"interrupted before it was read: {text}")
            return
        # Taken only now: what the model has to be told must outlive a prompt that it never read.
        notes = [conversation.take_note(), attached]
        result = await self._conduct(agent.run(text, "\n\n".join(filter(None, notes)) or None))
        for said, _ in reversed(agent.take_steering()):
            self._jobs.appendleft(functools.partial(self._prompt, said, None))
        conversation.note_session()
        conversation.changed(before, await asyncio.to_thread(conversation.snapshot))
        if result is not None and result.subtype is Subtype.SUCCESS and self.status.mode == "plan":
            self._show(PlanReady())

    async def _compact(self, wishes: str) -> None:
        if (conversation := await self._opened()) is None:
            return
        if conversation.agent is None:
            self._say("info", "there is nothing to compact yet")
            return
        await self._conduct(conversation.agent.compact(wishes), Phase.COMPACTING)

    async def _conduct(
        self, stream: AsyncGenerator[Event, None], phase: Phase = Phase.READING
    ) -> RunResult | None:
        result = None
        self._running = True
        self.status.enter(phase)
        try:
            async with aclosing(stream) as events:
                async for event in events:
                    if isinstance(event, RunResult):
                        result = event
                    self._see(event)
        finally:
            self._running = False
            self._questions.clear()
        return result

    async def _run_shell(self, command: str) -> None:
        if (conversation := await self._opened()) is None:
            return
        from dsv4_agent.chat.own_shell import run_own

        self.status.enter(Phase.WORKING, "shell")
        self._shell = asyncio.ensure_future(run_own(command, conversation.setting.workspace))
        try:
            await asyncio.wait({self._shell})  # cancelled by a person, it ends as any other
            output, code = ("[interrupted]", None) if self._shell.cancelled() else self._shell.result()
        finally:
            self._shell.cancel()
            self._shell = None
        self._show(ShellRan(command, output, code))
        conversation.tell(f"<user_shell>\n$ {command}\n{output}\n</user_shell>")

    async def _errand(self, errand: Errand) -> None:
        if (conversation := await self._opened()) is None:
            return
        for event in await errand(conversation):
            self._show(event)
        self._describe()

    async def _load_model(self, options: ModelOptions) -> None:
        self.status.enter(Phase.LOADING)
        if self.conversation is None:
            self.options = _with_model(self.options, options)
            await self._open()
        else:
            from dsv4_agent.chat.errands import load_model

            await self._errand(functools.partial(load_model, options))

    async def _close(self) -> None:
        if (conversation := self.conversation) is not None:
            with contextlib.suppress(Exception):
                await conversation.model.backend.close()
            await asyncio.shield(asyncio.to_thread(conversation.close))

    # -- helpers -----------------------------------------------------------------------------------------

    async def _opened(self) -> Conversation | None:
        if self.conversation is None:
            self._say("error", "nothing is open: the reason is above; /model NAME tries again")
        return self.conversation

    async def _attachments(self, text: str, typed: str | None) -> str | None:
        """What the mentions of a text bring along, as a note for the model."""
        from dsv4_agent.chat.mentions import expand

        if self.conversation is None or "@" not in (text if typed is None else typed):
            return None
        workspace = self.conversation.setting.workspace
        expanded = await asyncio.to_thread(functools.partial(expand, text, workspace, typed=typed))
        for problem in expanded.problems:
            self._say("warning", problem)
        return expanded.text[len(text) :].strip() or None

    def _see(self, event: Event) -> None:
        match event:
            case ApprovalRequested(id=id):
                self._questions[id] = event
            case UserMessage(text=text):
                self._read(text)
        follow(self.status, event)
        self._show(event)

    def _read(self, text: str) -> None:
        """What was said is pending no more."""
        if text in self.pending:
            self.pending.remove(text)
        self.status.queued = len(self.pending)

    def _show(self, event: ChatEvent) -> None:
        self._out.put_nowait(event)

    def _say(self, kind: str, text: str) -> None:
        self._show(Notice(kind, text))

    def _describe(self) -> None:
        if self.conversation is not None:
            describe(self.status, self.conversation)


def _open_conversation(options: ChatOptions) -> Conversation:
    from dsv4_agent.chat.conversation import Conversation
    from dsv4_agent.chat.setting import open_setting

    return Conversation(open_setting(options))


def _mode(name: str) -> PermissionMode:
    from dsv4_agent.permissions.decision import PermissionMode

    return PermissionMode(name)


def _with_model(options: ChatOptions, model: ModelOptions) -> ChatOptions:
    from dataclasses import replace

    return replace(options, model=model)
