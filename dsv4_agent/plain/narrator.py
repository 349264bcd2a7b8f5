"""From the events of a chat to labelled lines."""

from __future__ import annotations

from dsv4_agent.chat.events import ChatEvent, Opened, ShellRan
from dsv4_agent.loop.events import (
    AgentMessageItem,
    ApprovalRequested,
    CommandExecutionItem,
    Compacted,
    FileChangeItem,
    Item,
    ItemCompleted,
    ItemDelta,
    ItemStarted,
    Notice,
    PermissionDenied,
    PrefixBreak,
    ReasoningItem,
    Retry,
    Rewound,
    RunResult,
    Subtype,
    ToolCallItem,
    UserMessage,
)
from dsv4_agent.plain.approvals import print_question
from dsv4_agent.plain.digest import print_digest
from dsv4_agent.plain.items import argument_text, print_end, print_own_shell, print_start
from dsv4_agent.plain.labels import INTERRUPTED, Label
from dsv4_agent.plain.printer import Printer
from dsv4_agent.plain.streams import LineStream
from dsv4_agent.workbench.plain_text import plain_line

NOTICE_LABELS = {"error": Label.ERROR, "warning": Label.WARNING}


class Narrator:
    """Prints each event once. `expect` names what a person has typed and sees already."""

    def __init__(self, printer: Printer, *, stream_thinking: bool = False) -> None:
        self._printer = printer
        self._stream_thinking = stream_thinking
        self._expected: list[str] = []
        self._streams: dict[str, LineStream] = {}
        self._asked: dict[str, ApprovalRequested] = {}
        # A call that has begun is not said to run before it is known that nobody is asked about it.
        self._held: CommandExecutionItem | ToolCallItem | None = None

    def expect(self, text: str) -> None:
        """This prompt is on the screen: it is not printed again when the model reads it."""
        self._expected.append(text)

    def quiet(self) -> None:
        """Nothing has come for a moment, so the call that began is running."""
        if self._held is not None:
            print_start(self._printer, self._held)
            self._held = None

    def allowed(self, event: ApprovalRequested) -> None:
        """A person has said yes."""
        command = event.input.get("command")
        if event.tool == "shell" and isinstance(command, str):
            self._printer.say(Label.RUNNING, command)

    def show(self, event: ChatEvent) -> None:
        """Print what there is to say about an event."""
        if not isinstance(event, ApprovalRequested | PermissionDenied):
            self.quiet()
        match event:
            case UserMessage(text=text):
                self._user(text)
            case ItemStarted(item=item):
                self._started(item)
            case ItemDelta(id=id, text=text) if id in self._streams:
                self._streams[id].feed(text)
            case ItemCompleted(item=item):
                self._completed(item)
            case ApprovalRequested():
                self._held = None
                self._asked[event.id] = event
                print_question(self._printer, event)
            case PermissionDenied():
                self._held = None
                self._denied(event)
            case ShellRan():
                print_own_shell(self._printer, event.command, event.output, event.exit_code)
            case Opened(events=events):
                print_digest(self._printer, events)
            case RunResult():
                self._result(event)
            case _:
                self._aside(event)

    def _user(self, text: str) -> None:
        if text in self._expected:
            self._expected.remove(text)
        else:
            self._printer.say(Label.YOU, text)

    def _started(self, item: Item) -> None:
        match item:
            case ReasoningItem() if self._stream_thinking:
                self._streams[item.id] = LineStream(self._printer, Label.THINKING)
            case AgentMessageItem():
                self._streams[item.id] = LineStream(self._printer, Label.ANSWER)
            case CommandExecutionItem() | ToolCallItem():
                self._held = item

    def _completed(self, item: Item) -> None:
        match item:
            case ReasoningItem():
                self._end_stream(item, Label.THINKING)
            case AgentMessageItem():
                self._end_stream(item, Label.ANSWER)
            case CommandExecutionItem() | FileChangeItem() | ToolCallItem():
                question = self._asked.pop(item.id, None)
                print_end(self._printer, item, () if question is None else question.changes)

    def _end_stream(self, item: ReasoningItem | AgentMessageItem, label: Label) -> None:
        stream = self._streams.pop(item.id, None)
        if stream is None:
            stream = LineStream(self._printer, label)
        stream.end(item.text)

    def _denied(self, event: PermissionDenied) -> None:
        call = f"{plain_line(event.tool)} {argument_text(event.input)}".rstrip()
        self._printer.say(Label.DENIED, f"{plain_line(event.reason)}. Call: {call}")

    def _result(self, event: RunResult) -> None:
        self._streams.clear()
        self._asked.clear()
        if event.subtype is Subtype.ABORTED:
            self._printer.sentence(INTERRUPTED)
        elif event.error is not None:
            self._printer.say(Label.ERROR, event.error)

    def _aside(self, event: ChatEvent) -> None:
        say = self._printer.say
        match event:
            case Notice(kind=kind, text=text):
                say(NOTICE_LABELS.get(kind, Label.NOTICE), text)
            case Retry():
                wait = f"{event.delay_ms / 1000:.1f} s"
                said = f"retrying {event.attempt} of {event.max} in {wait}: {event.reason}"
                if event.discarded is not None:
                    said += ". What came of this answer is dropped, it begins anew."
                say(Label.WARNING, said)
            case PrefixBreak(cause=cause, tokens=tokens):
                say(Label.NOTICE, f"{tokens:,} cached tokens are lost: {cause}")
            case Rewound(kept=kept):
                say(Label.NOTICE, f"gone back to before prompt {kept + 1}.")
            case Compacted():
                sizes = f"{event.tokens_before:,} tokens are now {event.tokens_after:,}"
                say(Label.NOTICE, f"summed up: {sizes}.")
