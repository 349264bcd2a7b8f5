"""What is wrong with the user's settings."""

from __future__ import annotations


class SettingsError(Exception):
    """The file can't be read or says something unknown; one line with the cause and the remedy."""
