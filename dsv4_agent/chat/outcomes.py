"""What a command asks its front end to do: the front ends differ in how, never in what."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Say:
    """A line or two beside the conversation; `kind` is info, warning or error."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Page:
    """Something to read; plain lines."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Patch:
    """A patch to look at."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Option:
    """One thing to choose: the argument it stands for, and how it is shown."""

    value: str
    label: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Pick:
    """Choose one; then the command line `command` with the option's value is run."""

    title: str
    options: tuple[Option, ...]
    command: str
    selected: str | None = None


@dataclass(frozen=True, slots=True)
class Confirm:
    """Ask; on a yes, the command line `command` is run."""

    question: str
    command: str


@dataclass(frozen=True, slots=True)
class Fill:
    """Put a text into the composer."""

    text: str


@dataclass(frozen=True, slots=True)
class Copy:
    """Put a text into the clipboard."""

    text: str


@dataclass(frozen=True, slots=True)
class UseTheme:
    """Show in another theme."""

    name: str


@dataclass(frozen=True, slots=True)
class Quit:
    """End the chat."""


Outcome = Say | Page | Patch | Pick | Confirm | Fill | Copy | UseTheme | Quit
