"""What can go wrong with a timeline, and why a generation ended."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["ContextOverflowError", "PrefillCancelledError", "SequenceError", "StopReason"]


class SequenceError(Exception):
    """A sequence was used in a way that has no meaning. Carries a remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}")
        self.remedy = remedy


class ContextOverflowError(SequenceError):
    """The tokens don't fit the model's context window."""

    @classmethod
    def of(cls, wanted: int, window: int) -> ContextOverflowError:
        """``wanted`` tokens for a window of ``window``."""
        return cls(
            f"{wanted:,} tokens don't fit the context window of {window:,}.",
            "Compact the conversation, start a new one, or use a model with a larger window.",
        )


class PrefillCancelledError(SequenceError):
    """``sync`` was cancelled between chunks; what was computed is kept and will be reused."""


class StopReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"
    CONTEXT = "context"
    CANCELLED = "cancelled"
