"""What a front end shows beside the conversation: the phase, the model, the cache, the queue."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic
from typing import TYPE_CHECKING

from dsv4_agent.loop.facts import Breakdown, KvUse

if TYPE_CHECKING:
    from dsv4_agent.chat.conversation import Conversation


class Phase(StrEnum):
    """What is going on now."""

    LOADING = "loading the model"
    IDLE = "ready"
    READING = "reading"
    THINKING = "thinking"
    WRITING = "writing"
    WORKING = "working"
    ASKING = "waiting for your answer"
    COMPACTING = "compacting"
    STOPPING = "stopping"
    FAILED = "not ready"


@dataclass(slots=True)
class Status:
    """Changed by the dialogue only. Speeds are tokens a second, None where nothing was measured.

    `cost` is what the session's turns cost since it was opened, None where no price is known.
    """

    model: str = ""
    backend: str = ""
    effort: str = ""
    mode: str = "default"
    branch: str = ""
    sandbox: str = ""
    session: str = ""
    phase: Phase = Phase.LOADING
    since: float = field(default_factory=monotonic)
    tool: str = ""
    kv: KvUse | None = None
    breakdown: Breakdown | None = None
    prefill_tps: float | None = None
    decode_tps: float | None = None
    queued: int = 0
    window: int = 0
    cost: float | None = None
    currency: str | None = None

    def enter(self, phase: Phase, tool: str = "") -> None:
        """Begin a phase; its seconds count from now unless it goes on."""
        if phase is not self.phase:
            self.since = monotonic()
        self.phase, self.tool = phase, tool

    @property
    def busy(self) -> bool:
        """Whether the agent is at work."""
        return self.phase not in (Phase.LOADING, Phase.IDLE, Phase.FAILED)

    @property
    def seconds(self) -> float:
        """How long the phase has lasted."""
        return monotonic() - self.since


def describe(status: Status, conversation: Conversation) -> None:
    """Show model, branch and session of a conversation; without a session there is no cache to show."""
    info = conversation.model.backend.info
    status.model, status.backend, status.effort = info.id, info.kind.value, conversation.effort
    status.branch = conversation.setting.branch
    status.window = info.context_window
    status.session = "" if conversation.agent is None else conversation.agent.session.id
    if conversation.agent is None:
        status.kv, status.breakdown, status.cost = None, None, None
