"""How long turns wait, think of their first token, and sample: measured where a client would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from dsv4_agent.server.turns import Begun, Ended, Sampled, TurnEvent

__all__ = ["TurnClock", "TurnTimes"]


@dataclass(frozen=True, slots=True)
class TurnTimes:
    """One turn in seconds, from its request on; None for what it didn't come to.

    `waited` is the time without a place, `first_token` that until a token came, `rate` the tokens a second
    behind the first.
    """

    waited: float | None
    first_token: float | None
    rate: float | None
    sampled: int


class TurnClock:
    """Watches the events of one turn, and tells its times once, when it is over."""

    def __init__(self, tell: Callable[[TurnTimes], None]) -> None:
        self._tell = tell
        self._asked = monotonic()
        self._begun: float | None = None
        self._first: float | None = None
        self._last = self._asked
        self._sampled = 0
        self._told = False

    def saw(self, event: TurnEvent) -> None:
        """Note an event as it is handed over."""
        match event:
            case Begun():
                self._begun = monotonic()
            case Sampled():
                self._last = monotonic()
                self._first = self._last if self._first is None else self._first
                self._sampled += 1
            case Ended():
                self.over()

    def over(self) -> None:
        """The turn is over, however it ended; only the first call counts."""
        if self._told:
            return
        self._told = True
        first, spent = self._first, 0.0 if self._first is None else self._last - self._first
        self._tell(
            TurnTimes(
                None if self._begun is None else self._begun - self._asked,
                None if first is None else first - self._asked,
                (self._sampled - 1) / spent if spent > 0 else None,
                self._sampled,
            )
        )
