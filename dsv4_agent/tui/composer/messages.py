"""What the input box tells the application."""

from __future__ import annotations

from dataclasses import dataclass

from textual.message import Message


@dataclass
class Submitted(Message, namespace="composer"):
    """A prompt: `text` with pasted texts in full, `shown` with their chips."""

    text: str
    shown: str


@dataclass
class ShellSubmitted(Message, namespace="composer"):
    """A line that began with `!`, without it."""

    command: str


@dataclass
class CommandSubmitted(Message, namespace="composer"):
    """A line that began with `/`, with it; the name may be unknown."""

    line: str


class Edited(Message, namespace="composer"):
    """The text changed."""
