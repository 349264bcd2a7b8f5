"""The keys as the help page tells them."""

from __future__ import annotations

from typing import Final

KEYS: Final[tuple[tuple[str, str], ...]] = (
    ("Enter", "send; while the agent works: say it meanwhile"),
    ("Ctrl+J", "line break (Shift+Enter and Alt+Enter where the terminal can)"),
    ("Esc", "stop the agent, keeping what was done"),
    ("Esc Esc", "go back to an earlier prompt"),
    ("Shift+Tab", "next permission mode: default, accept-edits, auto, plan"),
    ("Up / Down", "earlier prompts; then Ctrl+R searches them"),
    ("Ctrl+R", "show or fold thinking"),
    ("Ctrl+O", "more or less detail of tool output"),
    ("PageUp/PageDown", "scroll; Ctrl+End goes back to the end"),
    ("Tab", "complete @files, /commands and their arguments"),
    ("Ctrl+G", "write in your editor ($VISUAL, $EDITOR)"),
    ("Ctrl+C", "copy the selection, clear the draft, interrupt, leave (twice)"),
    ("Ctrl+L", "draw the screen anew"),
    ("Ctrl+Z", "suspend; fg comes back"),
    ("Ctrl+D, Ctrl+Q", "leave; the session stays on disk"),
)
