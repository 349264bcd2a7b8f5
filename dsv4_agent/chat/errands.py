"""What a person asks of a conversation between runs; each errand gives the events that tell of it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence

from dsv4_agent.chat.conversation import Conversation
from dsv4_agent.chat.events import ChatEvent, Opened
from dsv4_agent.loop.events import Notice
from dsv4_agent.session.store import find_session
from dsv4_agent.workbench.model_options import Effort, ModelOptions
from dsv4_agent.workbench.plain_text import plain_line

Errand = Callable[[Conversation], Awaitable[Sequence[ChatEvent]]]
"""Raises `RunFailure` where it can't be done; then nothing has changed."""


async def begin_anew(conversation: Conversation) -> Sequence[ChatEvent]:
    """Start a new conversation; the old one stays on disk."""
    conversation.note_session()
    conversation.begin_anew()
    return [Opened()]


async def resume(wanted: str, conversation: Conversation) -> Sequence[ChatEvent]:
    """Take up another session: an id, the beginning of one, a title, or `last`."""
    cwd = str(conversation.setting.root)
    info = await asyncio.to_thread(functools.partial(find_session, wanted, cwd=cwd))
    if info is None:
        if wanted == "last":  # what --continue asks for, too
            said = f"there is no earlier session of {plain_line(cwd)}: /sessions lists those of all folders"
            return [Notice("error", said)]
        return [Notice("error", f"there is no session {wanted!r}: /sessions lists them")]
    conversation.note_session()
    return [Opened(await asyncio.to_thread(conversation.resume, info))]


async def tell_of_a_new_session(conversation: Conversation) -> Sequence[ChatEvent]:
    """Say so where no session was taken up."""
    told = Notice("info", "the next prompt begins a new session")
    return [told] if conversation.agent is None else []


async def set_effort(effort: Effort, conversation: Conversation) -> Sequence[ChatEvent]:
    """Think harder or less."""
    broken = conversation.set_effort(effort)
    said = Notice("info", f"effort is now {conversation.effort}")
    return [said] if broken is None else [broken, said]


async def load_model(options: ModelOptions, conversation: Conversation) -> Sequence[ChatEvent]:
    """Go on with another model, in a new conversation."""
    conversation.note_session()
    old = await asyncio.to_thread(conversation.load_model, options)
    await old.backend.close()
    name = conversation.model.backend.info.id
    return [Opened(), Notice("info", f"{name} answers from now on, in a new conversation")]


async def undo(conversation: Conversation) -> Sequence[ChatEvent]:
    """Take back the changes of the last run."""
    restored = await asyncio.to_thread(conversation.undo)
    if restored is None:
        return [Notice("info", "there is nothing to undo")]
    events: list[ChatEvent] = []
    if restored.files:
        events.append(Notice("info", f"put back: {', '.join(restored.files)}"))
    if restored.kept:
        events.append(Notice("warning", f"left alone, changed since: {', '.join(restored.kept)}"))
    return events
