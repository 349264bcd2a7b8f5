"""The key bindings that have an id, by which `[keys]` of the settings gives them other keys."""

from __future__ import annotations

from textual.binding import Binding

from dsv4_agent.tui.app import ChatApp
from dsv4_agent.tui.composer.composer import Composer
from dsv4_agent.tui.panels.approval import ApprovalPanel


def key_bindings() -> list[Binding]:
    """All of them, in the order of the help page."""
    return [
        binding
        for owner in (ChatApp, Composer, ApprovalPanel)
        for binding in owner.BINDINGS
        if isinstance(binding, Binding) and binding.id
    ]
