"""The keys, for the help."""

from __future__ import annotations

KEYS = (
    ("Enter", "send; while the agent works it reads it as soon as it can"),
    ("Ctrl+J", "a line break; also Alt+Enter, or a backslash before Enter"),
    ("Ctrl+C", "stop the agent; throw the line away; twice on an empty line: leave"),
    ("Ctrl+D", "leave, on an empty line"),
    ("Shift+Tab", "the next permission mode"),
    ("Tab", "complete a command, its argument, or a file after @"),
    ("Up", "earlier prompts"),
    ("Ctrl+R", "search them"),
    ("Ctrl+G", "write the prompt in your editor"),
)
"""A key and what it does."""
