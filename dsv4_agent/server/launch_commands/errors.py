"""Why a model can't be launched."""

from __future__ import annotations


class LaunchError(Exception):
    """Something doesn't fit or isn't known: one line, the cause and the remedy."""
