"""From the dialogue's stream to the terminal, and when the chat is free for the next thing."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from dsv4_agent.chat.dialogue import Dialogue
from dsv4_agent.chat.events import ChatEvent, PlanReady
from dsv4_agent.loop.events import ApprovalRequested, Init, RunResult
from dsv4_agent.plain.desk import Desk
from dsv4_agent.plain.labels import READY, Label
from dsv4_agent.plain.narrator import Narrator
from dsv4_agent.plain.printer import Printer
from dsv4_agent.plain.questions import CarryOut, approval
from dsv4_agent.workbench.plain_text import plain_line

_TICK: Final = 0.05  # seconds; looked at so often while something is under way


class Listener:
    """Prints what comes, puts questions on the desk, and says when all is done."""

    def __init__(self, dialogue: Dialogue, printer: Printer, narrator: Narrator, desk: Desk) -> None:
        self._dialogue = dialogue
        self._printer = printer
        self._narrator = narrator
        self._desk = desk
        self._announced = ""

    async def run(self) -> None:
        """Listen until cancelled."""
        stream = aiter(self._dialogue.events())
        coming = asyncio.ensure_future(anext(stream))
        stirred = asyncio.ensure_future(self._desk.stirred.wait())
        still = 0
        try:
            while True:
                waits = {coming, stirred} if self._desk.settled else {coming}
                timeout = None if self._desk.settled else _TICK
                await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if timeout is None:
                    self._desk.settled = False
                    still = 0
                if self._desk.stop_wanted and self._dialogue.interrupt():
                    self._desk.stop_wanted = False
                if coming.done():
                    self._show(coming.result())
                    coming = asyncio.ensure_future(anext(stream))
                    still = 0
                    continue
                self._announce()
                self._narrator.quiet()
                # Twice, because an event that was just sent is a step away from being here.
                still = 0 if self._dialogue.at_work else still + 1
                if still >= 2 and not self._desk.questions:
                    self._settle()
                    self._desk.stirred.clear()
                    stirred = asyncio.ensure_future(self._desk.stirred.wait())
        finally:
            for task in (coming, stirred):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    def _show(self, event: ChatEvent) -> None:
        if isinstance(event, Init):
            self._announce()
        self._narrator.show(event)
        match event:
            case ApprovalRequested():
                self._desk.put(approval(event))
            case PlanReady():
                self._desk.put(CarryOut())
            case RunResult():
                self._desk.drop_approvals()
                self._cache()

    def _cache(self) -> None:
        if (kv := self._dialogue.status.kv) is not None:
            restored = f" ({kv.restored:,} from disk)" if kv.restored else ""
            figures = f"{kv.used:,} tokens, {kv.reused:,} reused{restored}, {kv.prefilled:,} computed."
            self._printer.say(Label.CACHE, figures)

    def _announce(self) -> None:
        """Say which model answers, once for each."""
        model = self._dialogue.status.model
        if self._dialogue.conversation is None or self._announced == model:
            return
        self._announced = model
        self._printer.sentence(f"{READY} Model {plain_line(model)}.")

    def _settle(self) -> None:
        if self._dialogue.conversation is None:
            if not self._desk.settled_once:
                self._printer.say(Label.NOTICE, "there is no model: /model NAME takes one, /quit leaves.")
        elif not self._printer.last.startswith(READY):
            self._printer.sentence(READY)
        self._desk.settle()
