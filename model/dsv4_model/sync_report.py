"""What bringing a timeline to given tokens reused, restored and computed."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SyncReport"]


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What ``sync`` did.

    Attributes:
        reused: tokens whose KV was not computed: kept, or restored from elsewhere.
        prefilled: tokens that were computed.
        restored_from: None where the timeline simply went on; else ``"snapshot at N"`` (an earlier point of
            this timeline), ``"fork at N"`` (another timeline of this process), ``"disk at N"`` or
            ``"nothing"``.
        cause: None, or what broke the prefix, e.g. ``"diverged at token 812"``.
        restored: how many of the reused tokens this timeline did not hold itself.
    """

    reused: int
    prefilled: int
    restored_from: str | None = None
    cause: str | None = None
    restored: int = 0
