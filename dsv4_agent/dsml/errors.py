"""What can be wrong with a conversation that is to be rendered, or with a completion that is parsed strictly.

The texts contain the official encoder's message, so that a user can search for it; the class says what
happened, and every class but the last is a `ValueError` of the caller's data.
"""

from __future__ import annotations


class RenderError(ValueError):
    """A conversation can't be rendered; the message says which part and how to mend it."""


class InvalidEffortError(RenderError):
    """The reasoning effort does not exist in the chosen dialect."""


class InvalidThinkingModeError(RenderError):
    """The thinking mode is neither `thinking` nor `chat`."""


class UnknownRoleError(RenderError):
    """A message has a role that the encoder does not know."""


class InvalidMessageError(RenderError):
    """A message lacks what its role needs, or carries a value of the wrong type."""


class InvalidTaskError(RenderError):
    """A message names a quick-instruction task that does not exist."""


class ToolShapeError(RenderError):
    """A tool or tool call is not in the shape `{"type": "function", "function": {...}}`."""


class RequestError(RenderError):
    """The hosted API would refuse this request body (its own wording is in the message)."""


class StrictParseError(ValueError):
    """A completion is not what the official parser accepts; the text is the official one."""
