"""What answers do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from dsv4_agent.chat.dialogue import Choice, Dialogue
from dsv4_agent.chat.outcomes import Confirm, Pick
from dsv4_agent.permissions.decision import PermissionMode
from dsv4_agent.plain.desk import Desk
from dsv4_agent.plain.labels import Label
from dsv4_agent.plain.narrator import Narrator
from dsv4_agent.plain.printer import Printer
from dsv4_agent.plain.questions import (
    Approval,
    CarryOut,
    Question,
    approval_answer,
    picked,
    plan_answer,
    yes_or_no,
)

CARRY_OUT = "Carry out the plan."


class Answering:
    """Takes answers; one that is none leaves the question open, so that it is asked again."""

    def __init__(
        self,
        dialogue: Dialogue,
        printer: Printer,
        narrator: Narrator,
        desk: Desk,
        command: Callable[[str], Awaitable[None]],
    ) -> None:
        """`command` runs a command line."""
        self._dialogue = dialogue
        self._printer = printer
        self._narrator = narrator
        self._desk = desk
        self._command = command

    async def take(self, question: Question, text: str) -> None:
        """Act on an answer."""
        match question:
            case Approval():
                self._approval(question, text)
            case CarryOut():
                await self._plan(question, text)
            case Confirm(command=command):
                answer = yes_or_no(text)
                if answer is None:
                    self._again("y or n")
                    return
                self._desk.drop(question)
                if answer:
                    await self._command(command)
                else:
                    self._printer.say(Label.NOTICE, "left as it is.")
            case Pick(command=command):
                value = picked(text, question)
                if value is None:
                    self._again(f"a number from 1 to {len(question.options)}, or nothing")
                    return
                self._desk.drop(question)
                if isinstance(value, str):
                    await self._command(f"{command} {value}")
                else:
                    self._printer.say(Label.NOTICE, "nothing is chosen.")

    async def refuse(self, question: Question) -> None:
        """The end of the input is a no."""
        await self.take(question, "" if isinstance(question, Pick) else "n")

    def _approval(self, question: Approval, text: str) -> None:
        answer = approval_answer(text, question.lasting)
        if answer is None:
            words = "y, s, a or n" if question.lasting else "y or n"
            self._again(words)
            return
        choice, reason = answer
        self._desk.drop(question)
        if choice is not Choice.NO:
            self._narrator.allowed(question.event)
        self._dialogue.answer(question.event.id, choice, reason)

    async def _plan(self, question: CarryOut, text: str) -> None:
        answer = plan_answer(text)
        if answer is None:
            self._again("y, e or n")
            return
        self._desk.drop(question)
        if not isinstance(answer, PermissionMode):
            self._printer.say(Label.NOTICE, "the plan is not carried out; plan mode goes on.")
            return
        self._dialogue.set_mode(answer)
        self._printer.say(Label.MODE, f"{answer.value}.")
        await self._dialogue.submit(CARRY_OUT)

    def _again(self, words: str) -> None:
        self._printer.say(Label.NOTICE, f"that is no answer: please type {words}.")
