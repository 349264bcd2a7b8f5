"""What became of a prompt's prefix, for clients that ask with the `dsv4` extension."""

from __future__ import annotations

from typing import Any

from dsv4_agent.server.turns import Begun

__all__ = ["synced"]


def synced(begun: Begun) -> dict[str, Any]:
    """Tokens reused, computed and restored, from where, and why a prefix was lost."""
    return {
        "reused": begun.reused,
        "prefilled": begun.prefilled,
        "restored": begun.restored,
        "restored_from": begun.restored_from,
        "cause": begun.cause,
    }
