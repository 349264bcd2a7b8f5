"""Whether the dialogue has anything to do."""

from __future__ import annotations

from dsv4_agent.chat.dialogue import Dialogue
from dsv4_agent.chat.status import Phase


def at_work(dialogue: Dialogue) -> bool:
    """Whether anything is under way or waits for its turn."""
    # The flag of its queue: down only while the dialogue waits for something to do.
    return dialogue.status.phase is Phase.LOADING or dialogue._wake.is_set()
