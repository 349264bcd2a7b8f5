"""What a front end of a chat is told beside the loop's own events."""

from __future__ import annotations

from dataclasses import dataclass

from dsv4_agent.loop.events import Event


@dataclass(frozen=True, slots=True)
class ShellRan:
    """A `!` line of the user's own; its output goes to the model with the next prompt."""

    command: str
    output: str
    exit_code: int | None


@dataclass(frozen=True, slots=True)
class PlanReady:
    """A run in plan mode has answered: shall it be carried out?"""


@dataclass(frozen=True, slots=True)
class Opened:
    """Another conversation is in front of the user now: a new one (no events) or one taken up again."""

    events: tuple[Event, ...] = ()


ChatEvent = Event | ShellRan | PlanReady | Opened
