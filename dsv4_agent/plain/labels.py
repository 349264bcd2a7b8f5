"""The words that printed lines begin with. A listener knows from the first word what a line is."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

INDENT: Final = "  "
"""What the further lines of a block begin with."""

READY: Final = "Ready."
LOADING: Final = "Loading the model."
INTERRUPTED: Final = "Interrupted."
SENTENCES: Final = (READY, LOADING, INTERRUPTED)
"""Lines without a label: they say it all."""

PROMPT: Final = "> "


class Label(StrEnum):
    """Printed with a colon and a space after it."""

    YOU = "You"
    THINKING = "Thinking"
    ANSWER = "Answer"
    RUNNING = "Running"
    USING = "Using"
    RESULT = "Result"
    EDIT = "Edit"
    DENIED = "Denied"
    QUESTION = "Question"
    CHOOSE = "Choose"
    NOTICE = "Notice"
    WARNING = "Warning"
    ERROR = "Error"
    CACHE = "Cache"
    SHELL = "Shell"
    PAGE = "Page"
    PATCH = "Patch"
    COPY = "Copy"
    SESSION = "Session"
    LAST_PROMPT = "Last prompt"
    LAST_ANSWER = "Last answer"
    MODE = "Permission mode"
    COMPLETIONS = "Completions"
