"""What lies between listening and reading: open questions, and whether there is anything left to wait for."""

from __future__ import annotations

import asyncio

from dsv4_agent.plain.questions import Approval, Question
from dsv4_agent.plain.terminal import Terminal


class Desk:
    """`settled`: nothing is under way. `stirred`: something may be from now on."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self.questions: list[Question] = []
        self.settled = False
        self.settled_once = False
        self.stirred = asyncio.Event()
        self.free = asyncio.Event()
        """Set while input is wanted: for a question, or because all is done."""
        self.asked: Question | None = None
        """The question whose prompt is on the screen."""
        self.leave_when_done = False
        self.stop_wanted = False
        """Ctrl+C came while a run was being prepared: it is stopped as soon as it can be."""
        self.left = asyncio.Event()

    @property
    def question(self) -> Question | None:
        """What is to be answered first."""
        return self.questions[0] if self.questions else None

    def put(self, question: Question) -> None:
        """Ask. What the agent waits for comes before what the person wanted to choose."""
        if isinstance(question, Approval):
            self.questions.insert(0, question)
        else:
            self.questions.append(question)
        self.free.set()
        self._terminal.withdraw()

    def drop(self, question: Question) -> None:
        """It is answered, or no longer of use."""
        if question in self.questions:
            self.questions.remove(question)
        if self.asked is question:
            self._terminal.withdraw()
        self.stir()

    def drop_approvals(self) -> None:
        """The run is over: nobody waits for these answers."""
        for question in [question for question in self.questions if isinstance(question, Approval)]:
            self.drop(question)

    def stir(self) -> None:
        """Something was asked for: it is not done yet."""
        self.settled = False
        self.stirred.set()
        if not self.questions:
            self.free.clear()

    def settle(self) -> None:
        """All is done."""
        self.settled = self.settled_once = True
        self.stop_wanted = False
        self.free.set()
        self._terminal.refresh()
        if self.leave_when_done:
            self.leave()

    def leave(self) -> None:
        """End the chat."""
        self.left.set()
        self._terminal.withdraw()
