"""Texts with placeholders: `{name}` stands for a value of the item, `{{name}}` for `{name}` itself.

Any other brace is what it is, so that code and JSON can stand in a prompt as they are. In commands
every value is quoted for the shell: an item can't smuggle in a command.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

Value = str | tuple[str, ...]
"""A placeholder's value; a list is joined by blanks, in commands each member quoted."""
Values = Mapping[str, Value]

_PIECE = re.compile(r"\{(\{[A-Za-z_][A-Za-z0-9_]*\})\}|\{([A-Za-z_][A-Za-z0-9_]*)\}")


class TemplateError(Exception):
    """A placeholder has no value; one line that names it and those there are."""


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed text: literal pieces (even places) and names of placeholders (odd places)."""

    pieces: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Find the placeholders. Raises `TemplateError` for a text with a NUL."""
        if "\0" in text:
            raise TemplateError("a text contains a NUL byte; take it out")
        pieces = [""]
        end = 0
        for found in _PIECE.finditer(text):
            pieces[-1] += text[end : found.start()]
            end = found.end()
            if found[1] is not None:
                pieces[-1] += found[1]
            else:
                pieces += [found[2], ""]
        pieces[-1] += text[end:]
        return cls(tuple(pieces))

    @property
    def names(self) -> tuple[str, ...]:
        """The placeholders, each once, in order."""
        return tuple(dict.fromkeys(self.pieces[1::2]))

    def text(self, values: Values) -> str:
        """The text for people and models. Raises `TemplateError`."""
        return self._filled(values, lambda value: value if isinstance(value, str) else " ".join(value))

    def command(self, values: Values) -> str:
        """The text for a shell, values quoted. Raises `TemplateError`."""
        return self._filled(
            values, lambda value: shlex.quote(value) if isinstance(value, str) else shlex.join(value)
        )

    def _filled(self, values: Values, shown: Callable[[Value], str]) -> str:
        parts: list[str] = []
        for place, piece in enumerate(self.pieces):
            if place % 2 == 0:
                parts.append(piece)
            elif piece in values:
                parts.append(shown(values[piece]))
            else:
                known = ", ".join(f"{{{name}}}" for name in values)
                raise TemplateError(
                    f"the item has no {{{piece}}}, only {known}; write {{{{{piece}}}}} for the text itself"
                )
        return "".join(parts)
