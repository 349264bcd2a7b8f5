"""A model that does what the prompt says (`edit FILE: OLD -> NEW`), and an executor of this process."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from dsv4_agent.backends.base import Conversation, ModelError
from dsv4_agent.backends.text import TextTurnBackend
from dsv4_agent.batch.executor import Assignment, ItemProgress
from dsv4_agent.batch.procedure import Procedure
from dsv4_agent.batch.states import ItemResult
from dsv4_agent.loop.preset import nano_preset
from dsv4_agent.workbench.exit_codes import OwnSubtype
from dsv4_agent.workbench.failures import RunFailure

_TASK = re.compile(r"edit (\S+): (.*) -> (.*)")


def call(name: str, **arguments: str) -> str:
    """A turn with one tool call."""
    parameters = "\n".join(
        f'<｜DSML｜parameter name="{key}" string="true">{value}</｜DSML｜parameter>'
        for key, value in arguments.items()
    )
    invoke = f'<｜DSML｜invoke name="{name}">\n{parameters}\n</｜DSML｜invoke>'
    return f"I do it.</think>\n\n<｜DSML｜tool_calls>\n{invoke}\n</｜DSML｜tool_calls>"


class Oracle(TextTurnBackend):
    """Edits once per user message that asks for it; the rest does nothing, breaks down or goes round."""

    def next_turn(self, conversation: Conversation) -> str:
        messages = conversation.messages()
        last = messages[-1]
        first = str(next(message["content"] for message in messages if message["role"] == "user"))
        if "go round" in first:
            return call("shell", command=f"echo {len(messages)}")
        if last["role"] == "tool":
            return "It is done.</think>Done."
        text = str(last["content"])
        if "break down" in text:
            raise ModelError("the model broke down: as it was told")
        if (found := _TASK.search(text)) is None:
            return "Nothing.</think>Nothing to do."
        return call("edit", path=found[1], old_string=found[2], new_string=found[3])


@dataclass
class Inside:
    """Does items in this process. `seen` are the ids in the order they began."""

    seen: list[str] = field(default_factory=list)
    stop_at: str | None = None
    most: int = 0
    _now: int = 0

    async def run(self, assignment: Assignment) -> AsyncIterator[ItemProgress | ItemResult]:
        self.seen.append(assignment.item.id)
        if self.stop_at == assignment.item.id:
            raise RunFailure(OwnSubtype.TOOLS, "stopped")
        self._now += 1
        self.most = max(self.most, self._now)
        if not assignment.job.worktree.is_dir():
            await asyncio.to_thread(assignment.checkouts.worktree, assignment.name, assignment.commit)
        said: list[str] = []
        procedure = Procedure(assignment.job, Oracle(), nano_preset(), said.append)
        result = await procedure.run()
        for text in said:
            yield ItemProgress(assignment.item.id, text)
        self._now -= 1
        yield result

    async def close(self) -> None:
        return
