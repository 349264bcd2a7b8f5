"""The blocks of a transcript as a function of the event stream. Knows nothing of the screen."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from dsv4_agent.loop.events import (
    AgentMessageItem,
    CommandExecutionItem,
    Compacted,
    Event,
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
    TurnStarted,
    UserMessage,
)
from dsv4_agent.tui.transcript.blocks.answer import AnswerBlock, LiveAnswer
from dsv4_agent.tui.transcript.blocks.block import Block
from dsv4_agent.tui.transcript.blocks.dropped import DroppedBlock
from dsv4_agent.tui.transcript.blocks.notice import NoticeBlock
from dsv4_agent.tui.transcript.blocks.thinking import LiveThinking, ThinkingBlock
from dsv4_agent.tui.transcript.blocks.tool import ToolBlock, title_of
from dsv4_agent.tui.transcript.blocks.user import UserBlock


class Projection:
    """Every event changes or adds at most a few blocks; their numbers are what `apply` returns.

    Blocks are only ever added at the end and replaced in place, so a number stays good until `clear` or until
    the conversation goes back (`Rewound`), which takes blocks away from the end.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.blocks: list[Block] = []
        self._clock = clock
        self._open: dict[str, int] = {}
        self._prompts: list[int] = []
        self._turn = 0

    @property
    def live(self) -> tuple[int, ...]:
        """The blocks that are under way: their durations count on."""
        return tuple(self._open.values())

    def add(self, block: Block) -> list[int]:
        """Add a block at the end."""
        self.blocks.append(block)
        return [len(self.blocks) - 1]

    def clear(self) -> None:
        """Forget everything."""
        self.blocks.clear()
        self._open.clear()
        self._prompts.clear()
        self._turn = 0

    def apply(self, event: Event) -> list[int]:
        """The blocks that `event` added or changed; none for an event that is not shown."""
        match event:
            case ItemDelta():
                return self._delta(event)
            case ItemStarted():
                return self._start(event.item)
            case ItemCompleted():
                return self._complete(event.item)
            case UserMessage():
                if not event.steering:
                    self._prompts.append(len(self.blocks))
                return self.add(UserBlock(event.text))
            case Compacted():
                self._prompts.clear()
                sizes = f"{event.tokens_before:,} tokens are now {event.tokens_after:,}"
                return self.add(NoticeBlock("info", f"compacted: {sizes}; the summary is above"))
            case Rewound():
                self._rewind(event.kept)
            case PermissionDenied():
                return self._denied(event)
            case TurnStarted():
                self._turn = len(self.blocks)
            case Retry():
                dropped = [] if event.discarded is None else self._drop()
                return [*dropped, *self.add(NoticeBlock("warning", _retry(event)))]
            case PrefixBreak():
                said = f"{event.cause}: {event.tokens:,} cached tokens are computed again"
                return self.add(NoticeBlock("info", said))
            case Notice():
                return self.add(NoticeBlock(event.kind, event.text))
            case RunResult():
                return self._ended(event)
        return []

    def _rewind(self, kept: int) -> None:
        """Take the turns away that the model no longer knows; steering counts with its prompt."""
        if kept < len(self._prompts):
            del self.blocks[self._prompts[kept] :]
            del self._prompts[kept:]
        self._open.clear()

    def _drop(self) -> list[int]:
        """Mark what the model has said in this turn as dropped."""
        changed: list[int] = []
        for index in range(self._turn, len(self.blocks)):
            said = _said(self.blocks[index])
            if said is not None:
                self.blocks[index] = DroppedBlock(*said)
                changed.append(index)
        self._open = {id: index for id, index in self._open.items() if index not in changed}
        return changed

    def close(self) -> list[int]:
        """End what is under way: nothing more will come for it."""
        closed = list(self._open.values())
        for index in closed:
            match self.blocks[index]:
                case LiveAnswer() as block:
                    self.blocks[index] = AnswerBlock(block.live.text)
                case LiveThinking() as block:
                    seconds = self._clock() - block.started
                    self.blocks[index] = ThinkingBlock(block.live.text, 0, seconds)
                case ToolBlock() as block:
                    self.blocks[index] = replace(block, stopped=True)
        self._open.clear()
        return closed

    def last_answer(self) -> str:
        """The last thing that the model said; empty if there is none."""
        for block in reversed(self.blocks):
            if isinstance(block, AnswerBlock | LiveAnswer) and (said := block.text()):
                return said
        return ""

    def text(self, all: bool) -> str:
        """Turns and answers; with `all` the other blocks as well. A blank line between blocks."""
        talk = (UserBlock, AnswerBlock, LiveAnswer)
        blocks = (block for block in self.blocks if all or isinstance(block, talk))
        return "\n\n".join(filter(None, (block.text() for block in blocks)))

    def _start(self, item: Item) -> list[int]:
        self._open[item.id] = len(self.blocks)
        match item:
            case ReasoningItem():
                thinking = LiveThinking(self._clock())
                if item.text:
                    thinking.live.append(item.text)
                return self.add(thinking)
            case AgentMessageItem():
                answer = LiveAnswer()
                if item.text:
                    answer.live.append(item.text)
                return self.add(answer)
            case CommandExecutionItem() | FileChangeItem() | ToolCallItem():
                return self.add(ToolBlock(item, self._clock()))

    def _delta(self, event: ItemDelta) -> list[int]:
        index = self._open.get(event.id)
        if index is None:
            return []
        match self.blocks[index]:
            case LiveAnswer() | LiveThinking() as block:
                block.live.append(event.text)
                return [index]
        return []

    def _complete(self, item: Item) -> list[int]:
        index = self._open.pop(item.id, None)
        before = None if index is None else self.blocks[index]
        after: Block
        match item:
            case ReasoningItem():
                seconds = self._clock() - before.started if isinstance(before, LiveThinking) else None
                after = ThinkingBlock(item.text, item.tokens, seconds)
            case AgentMessageItem():
                after = AnswerBlock(item.text)
            case CommandExecutionItem() | FileChangeItem() | ToolCallItem():
                denial = before.denial if isinstance(before, ToolBlock) else ""
                after = ToolBlock(item, denial=denial, stopped=item.status is None)
        if index is None:
            return self.add(after)
        self.blocks[index] = after
        return [index]

    def _denied(self, event: PermissionDenied) -> list[int]:
        rule = f" (rule {event.rule})" if event.rule else ""
        said = f"{event.reason}{rule}"
        for index in reversed(self._open.values()):
            block = self.blocks[index]
            if isinstance(block, ToolBlock) and not block.denial and _tool_of(block) in (event.tool, ""):
                self.blocks[index] = replace(block, denial=said)
                return [index]
        return self.add(NoticeBlock("warning", f"{event.tool} {title_of(event.input)} was declined: {said}"))

    def _ended(self, event: RunResult) -> list[int]:
        closed = self.close()
        if event.subtype is Subtype.ABORTED:
            return [*closed, *self.add(NoticeBlock("warning", "interrupted"))]
        if event.is_error:
            said = event.error or event.subtype.value.replace("_", " ")
            return [*closed, *self.add(NoticeBlock("error", said))]
        return closed


def _tool_of(block: ToolBlock) -> str:
    """The tool's name; commands carry none, so they match any."""
    return "" if isinstance(block.item, CommandExecutionItem) else block.item.tool


def _said(block: Block) -> tuple[str, str] | None:
    match block:
        case LiveAnswer():
            return "answer", block.live.text
        case AnswerBlock():
            return "answer", block.said
        case LiveThinking():
            return "thinking", block.live.text
        case ThinkingBlock():
            return "thinking", block.thought
    return None


def _retry(event: Retry) -> str:
    return f"{event.reason}; retrying {event.attempt} of {event.max} in {event.delay_ms / 1000:.1f} s"
