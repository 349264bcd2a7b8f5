"""Every word that the model reads and that is not wire format."""

from __future__ import annotations

from typing import Literal

Preset = Literal["default", "nano"]


def prompt(name: str) -> str:
    """The text of `<name>.md`, such as `system`, without its final newline. Raises KeyError if unknown."""
    return _text(name, f"{name}.md")


def tool_description(tool: str, preset: Preset = "default") -> str:
    """What the model is told a tool does; for `nano` the first line only. Raises KeyError if unknown."""
    text = _text(tool, "tools", f"{tool}.md")
    return text.split("\n", 1)[0] if preset == "nano" else text


def _text(name: str, *parts: str) -> str:
    from importlib.resources import files

    if not name.replace("_", "").isalnum():
        raise KeyError(name)
    try:
        return files(__name__).joinpath(*parts).read_text(encoding="utf-8").rstrip("\n")
    except FileNotFoundError as error:
        raise KeyError(name) from error
