"""The error of a configuration that can't be run."""

from __future__ import annotations

__all__ = ["ConfigError"]


class ConfigError(ValueError):
    """A configuration that this engine can't run: names the key, its value and what would mend it."""

    def __init__(self, key: str, value: object, remedy: str) -> None:
        super().__init__(f"config key {key!r} has value {_shown(value)}: {remedy}")
        self.key = key
        self.value = value
        self.remedy = remedy


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
