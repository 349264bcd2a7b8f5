"""Where commands run: one interface, several substrates."""

from __future__ import annotations

from dsv4_tools.sandbox.base import Network, Policy, Sandbox, SandboxUnavailable, Wrapped
from dsv4_tools.sandbox.select import choose

__all__ = ["Network", "Policy", "Sandbox", "SandboxUnavailable", "Wrapped", "choose"]
