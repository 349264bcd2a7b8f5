"""A thought in the field `encrypted_content` of OpenAI's reasoning items.

Clients that keep no reasoning of their own (codex among them) send that field back as it came, so the model's
thoughts survive there when this server has forgotten the turn. Nothing is encrypted: whoever asked may read
what was thought.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

__all__ = ["INCLUDE", "carried", "thought_in"]

INCLUDE: Final = "reasoning.encrypted_content"
"""How clients ask for it."""
_MARK: Final = "dsv4:"


def carried(thought: str) -> str:
    """A thought as the field's value."""
    return _MARK + base64.b64encode(thought.encode("utf-8", "surrogatepass")).decode("ascii")


def thought_in(value: object) -> str:
    """The thought in a field; empty for what isn't ours, such as another provider's."""
    if not isinstance(value, str) or not value.startswith(_MARK):
        return ""
    try:
        return base64.b64decode(value.removeprefix(_MARK), validate=True).decode("utf-8", "surrogatepass")
    except (binascii.Error, ValueError):
        return ""
