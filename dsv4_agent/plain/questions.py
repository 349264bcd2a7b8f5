"""Questions to the person and what counts as an answer."""

from __future__ import annotations

from dataclasses import dataclass

from dsv4_agent.chat.dialogue import Choice
from dsv4_agent.chat.outcomes import Confirm, Pick
from dsv4_agent.chat.standing_rules import rules_for
from dsv4_agent.loop.events import ApprovalRequested
from dsv4_agent.permissions.decision import PermissionMode
from dsv4_agent.workbench.plain_text import plain_line


@dataclass(frozen=True, slots=True)
class Approval:
    """May this call be made? `lasting` says whether an answer can hold for longer than once."""

    event: ApprovalRequested
    lasting: bool


@dataclass(frozen=True, slots=True)
class CarryOut:
    """Shall the plan be carried out?"""


Question = Approval | CarryOut | Pick | Confirm


def approval(event: ApprovalRequested) -> Approval:
    """The question of an event."""
    return Approval(event, bool(rules_for(event.tool, event.input)))


def wording(question: Question) -> str:
    """The line at which the answer is typed."""
    match question:
        case Approval(lasting=True):
            return "Allow? [y]es once, [s]ession, [a]lways, [n]o: "
        case Approval():
            return "Allow? [y]es once, [n]o: "
        case CarryOut():
            return "Carry out this plan? [y]es, [e]dits without asking, [n]o: "
        case Pick(options=options):
            return f"Number, 1 to {len(options)}, or Enter for none: "
        case Confirm(question=text):
            return f"Confirm: {plain_line(text)} [y]es, [n]o: "


def guarded(question: Question) -> bool:
    """Whether what was typed before the question must not answer it."""
    return isinstance(question, Approval | CarryOut)


def approval_answer(text: str, lasting: bool) -> tuple[Choice, str] | None:
    """The choice and, after a no, the reason; None where it is no answer."""
    word, _, reason = text.strip().partition(" ")
    match word.lower().rstrip(",:;."):
        case "n" | "no":
            return Choice.NO, reason.strip()
        case _ if reason:
            return None
        case "y" | "yes":
            return Choice.ONCE, ""
        case "s" | "session" if lasting:
            return Choice.SESSION, ""
        case "a" | "always" if lasting:
            return Choice.ALWAYS, ""
    return None


def plan_answer(text: str) -> PermissionMode | bool | None:
    """The mode to carry a plan out in; False for a no, None where it is no answer."""
    match text.strip().lower():
        case "y" | "yes":
            return PermissionMode.DEFAULT
        case "e" | "edits":
            return PermissionMode.ACCEPT_EDITS
        case "n" | "no":
            return False
    return None


def yes_or_no(text: str) -> bool | None:
    """A yes, a no, or no answer."""
    match text.strip().lower():
        case "y" | "yes":
            return True
        case "n" | "no":
            return False
    return None


def picked(text: str, pick: Pick) -> str | bool | None:
    """The value of the option with this number; False for none, None where there is no such number."""
    word = text.strip()
    if not word:
        return False
    if word.isdecimal() and 1 <= int(word) <= len(pick.options):
        return pick.options[int(word) - 1].value
    return None
