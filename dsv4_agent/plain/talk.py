"""The person's side: what is read goes to the dialogue, to a command, or answers a question."""

from __future__ import annotations

from dsv4_agent.chat import outcomes as out
from dsv4_agent.chat.commands import MODES, Commands
from dsv4_agent.chat.dialogue import Dialogue
from dsv4_agent.chat.status import Phase
from dsv4_agent.chat.submission import CommandLine, Prompt, ShellLine, judge
from dsv4_agent.permissions.decision import PermissionMode
from dsv4_agent.plain.answers import Answering
from dsv4_agent.plain.desk import Desk
from dsv4_agent.plain.keys import KEYS
from dsv4_agent.plain.labels import PROMPT, Label
from dsv4_agent.plain.narrator import Narrator
from dsv4_agent.plain.outcomes import help_text, keys_text, print_outcome
from dsv4_agent.plain.printer import Printer
from dsv4_agent.plain.questions import Question, guarded, wording
from dsv4_agent.plain.terminal import Ask, Broken, Ended, Reading, Terminal, Typed, Withdrawn

_HELP = ("/help", "/?")


class Talk:
    """Reads until the chat is left."""

    def __init__(
        self,
        dialogue: Dialogue,
        terminal: Terminal,
        printer: Printer,
        narrator: Narrator,
        desk: Desk,
        draft: str = "",
    ) -> None:
        self._dialogue = dialogue
        self._terminal = terminal
        self._printer = printer
        self._narrator = narrator
        self._desk = desk
        self._draft = draft
        self._commands = Commands(dialogue, KEYS)
        self._names = frozenset(name for name, _ in self._commands.listing())
        self._answering = Answering(dialogue, printer, narrator, desk, self.command)
        self._warned = False

    async def run(self) -> None:
        """Read and act until the chat is left."""
        while not self._desk.left.is_set():
            if self._terminal.patient or self._terminal.ended:
                await self._desk.free.wait()
            question = self._desk.question
            reading = await self._read(question)
            if not isinstance(reading, Broken | Withdrawn):
                self._warned = False
            match reading:
                case Typed():
                    await self._typed(reading, question)
                case Broken(had_text=had_text):
                    self.interrupt(had_text)
                case Ended():
                    await self._ended(question)
                case Withdrawn(text=text) if question is None:
                    self._draft = text

    def interrupt(self, had_text: bool = False) -> None:
        """Ctrl+C: stop what runs, else throw away what is being typed, else leave at the second time."""
        self._terminal.break_line()
        question = self._desk.question
        stopping = self._dialogue.status.phase is Phase.STOPPING
        if self._dialogue.interrupt():
            if not stopping:
                self._printer.say(Label.NOTICE, "stopping.")
            if question is not None:
                self._desk.drop(question)
        elif question is not None:
            self._desk.drop(question)
            self._printer.say(Label.NOTICE, "not answered.")
        elif self._dialogue.at_work and self._dialogue.status.phase is not Phase.LOADING:
            if not self._desk.stop_wanted:
                self._printer.say(Label.NOTICE, "stopping.")
            self._desk.stop_wanted = True
        elif had_text:
            self._printer.say(Label.NOTICE, "the line is thrown away.")
        elif self._warned:
            self._desk.leave()
        else:
            self._warned = True
            self._printer.say(Label.NOTICE, "Ctrl+C once more leaves.")

    def cycle_mode(self) -> None:
        """The next permission mode."""
        modes = list(PermissionMode)
        mode = modes[(modes.index(PermissionMode(self._dialogue.status.mode)) + 1) % len(modes)]
        self._dialogue.set_mode(mode)
        self._printer.say(Label.MODE, f"{mode.value}, {MODES[mode]}.")

    def complete(self, command: str, prefix: str) -> list[str]:
        """Arguments of a command that begin with `prefix`."""
        return self._commands.complete(command, prefix)

    async def command(self, line: str) -> None:
        """Run a command line and do what comes of it."""
        if line in _HELP:
            text = help_text(self._commands.listing(), KEYS)
            print_outcome(self._printer, out.Page("Help", text))
            return
        if line == "/keys":
            print_outcome(self._printer, out.Page("Keys", "\n".join(keys_text(KEYS)[1:])))
            return
        for outcome in await self._commands.run(line):
            self._outcome(outcome)

    # -- reading -----------------------------------------------------------------------------------------

    async def _read(self, question: Question | None) -> Reading:
        if question is None:
            draft, self._draft = self._draft, ""
            return await self._terminal.read(Ask(self._prompt, draft))
        if guarded(question) and question is not self._desk.asked:
            dropped = self._terminal.drop_typed()
            if dropped:
                lines = "1 line" if dropped == 1 else f"{dropped} lines"
                self._printer.say(Label.WARNING, f"{lines} typed before the question is thrown away.")
        self._desk.asked = question
        reading = await self._terminal.read(Ask(lambda: wording(question), question=True))
        if question not in self._desk.questions:
            return Withdrawn()
        return reading

    def _prompt(self) -> str:
        return PROMPT if self._desk.settled else ""

    async def _typed(self, typed: Typed, question: Question | None) -> None:
        self._desk.leave_when_done = False
        if not self._terminal.echoes:
            self._printer.say(Label.YOU, typed.text)
        if question is not None:
            await self._answering.take(question, typed.text)
            return
        match Prompt(typed.text) if typed.pasted_start else judge(typed.text, self._names):
            case Prompt(text=text):
                await self._submit(text, typed.own)
            case ShellLine(command=command):
                self._desk.stir()
                self._dialogue.shell(command)
            case CommandLine(line=line):
                await self.command(line)
                self._desk.stir()

    async def _submit(self, text: str, own: str | None) -> None:
        if not text.strip():
            return
        self._desk.stir()
        waits = self._dialogue.at_work
        if not waits or not self._terminal.echoes:
            self._narrator.expect(text)
        if waits:
            self._printer.say(Label.NOTICE, "the agent reads this as soon as it can.")
        await self._dialogue.submit(text, own)

    async def _ended(self, question: Question | None) -> None:
        if question is not None:
            await self._answering.refuse(question)
        elif self._desk.settled:
            self._desk.leave()
        else:
            self._desk.leave_when_done = True
            self._desk.stir()
            if not self._terminal.ended:
                self._printer.say(Label.NOTICE, "leaving when this is done.")

    def _outcome(self, outcome: out.Outcome) -> None:
        match outcome:
            case out.Quit():
                self._desk.leave()
            case out.Fill(text=text):
                self._fill(text)
            case out.Confirm():
                self._desk.put(outcome)
            case out.Pick():
                print_outcome(self._printer, outcome)
                self._desk.put(outcome)
            case _:
                print_outcome(self._printer, outcome)

    def _fill(self, text: str) -> None:
        if self._terminal.edits:
            self._draft = text
        else:
            self._printer.say(Label.LAST_PROMPT, text)
