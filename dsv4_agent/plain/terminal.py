"""What the chat asks of a terminal; `keyboard` and `lines` are the two kinds there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Ask:
    """Something to be typed. `prompt` may change while the terminal waits; empty shows nothing."""

    prompt: Callable[[], str]
    default: str = ""
    question: bool = False


@dataclass(frozen=True, slots=True)
class Typed:
    """A submitted text. `own` is what of it was typed and not pasted, None where that is not known."""

    text: str
    own: str | None = None
    pasted_start: bool = False


@dataclass(frozen=True, slots=True)
class Broken:
    """Ctrl+C; `had_text` says whether there was something to throw away."""

    had_text: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """Ctrl+D, or the input is over."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The program has taken the prompt away; `text` is what stood there."""

    text: str = ""


Reading = Typed | Broken | Ended | Withdrawn


class Terminal(Protocol):
    """Prints whole lines at any time and reads one text at a time. Used in one event loop.

    `echoes`: what is typed stays visible. `edits`: a text can be put into the prompt. `patient`: input is
    taken when the chat is free for it, as from a file. `ended`: nothing will ever be read again. `lost`:
    why nothing can be printed any more.
    """

    @property
    def echoes(self) -> bool: ...

    @property
    def edits(self) -> bool: ...

    @property
    def patient(self) -> bool: ...

    @property
    def ended(self) -> bool: ...

    @property
    def lost(self) -> Exception | None: ...

    def open(self) -> None:
        """Take the terminal over."""

    def load_draft(self) -> str:
        """What was left unsent the last time."""

    def close(self) -> None:
        """Give it back as it was found. May be called twice."""

    def write(self, text: str) -> None:
        """Print whole lines. Never raises for what a terminal does."""

    async def read(self, ask: Ask) -> Reading:
        """Wait for something to be typed."""

    def refresh(self) -> None:
        """The prompt may have changed."""

    def withdraw(self) -> None:
        """End the reading that goes on."""

    def drop_typed(self) -> int:
        """Forget what was typed and not read yet; how many whole lines that were, as far as is known."""

    def break_line(self) -> None:
        """A signal key may have left the cursor inside a line."""
