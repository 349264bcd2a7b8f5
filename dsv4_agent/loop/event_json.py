"""The published JSON form of the events (headless contract, F2); `headless/schemas` holds its JSON Schema."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import StrEnum

from dsv4_agent.loop.events import (
    CommandExecutionItem,
    Event,
    FileChangeItem,
    Item,
    ItemStarted,
    ToolCallItem,
)


def to_json(event: Event) -> dict[str, object]:
    """The published JSON object of an event; an item that has only started shows only what is known."""
    if isinstance(event, ItemStarted):
        return {"type": event.type, "item": _started(event.item)}
    return _object(event)


def _started(item: Item) -> dict[str, object]:
    known: dict[str, object] = {"id": item.id, "type": item.type}
    match item:
        case CommandExecutionItem():
            known |= {"command": item.command, "cwd": item.cwd, "sandboxed": item.sandboxed}
        case FileChangeItem():
            known |= {"tool": item.tool, "path": item.path}
        case ToolCallItem():
            known |= {"tool": item.tool, "input": _plain(item.input)}
    return known


def _object(value: object) -> dict[str, object]:
    assert dataclasses.is_dataclass(value)
    kind = getattr(value, "type", None)
    head: dict[str, object] = {} if kind is None else {"type": kind}
    return head | {entry.name: _plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)}


def _plain(value: object) -> object:
    match value:
        case StrEnum():
            return value.value
        case Mapping():
            return {str(key): _plain(entry) for key, entry in value.items()}
        case tuple() | list():
            return [_plain(entry) for entry in value]
        case _ if dataclasses.is_dataclass(value):
            return _object(value)
        case _:
            return value
