"""The published JSON form of the events (headless contract, F2); `headless/schemas` holds its JSON Schema."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, get_args

from dsv4_agent.loop.events import (
    CommandExecutionItem,
    Event,
    FileChangeItem,
    Item,
    ItemCompleted,
    ItemStarted,
    ToolCallItem,
)

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_EVENTS: Mapping[str, Any] = {kind.type: kind for kind in get_args(Event)}
_ITEMS: Mapping[str, Any] = {kind.type: kind for kind in get_args(Item)}


def to_json(event: Event) -> dict[str, object]:
    """The published JSON object of an event; an item that has only started shows only what is known."""
    if isinstance(event, ItemStarted):
        return {"type": event.type, "item": _started(event.item)}
    return _object(event)


def from_json(value: Mapping[str, object]) -> Event | None:
    """The event of a published object; None for a type that this version doesn't know.

    Raises `ValueError` for an object of a known type that lacks or garbles a field.
    """
    kind = _EVENTS.get(str(value.get("type")))
    if kind is None:
        return None
    if kind not in (ItemStarted, ItemCompleted):
        event: Event = _read(kind, value)
        return event
    item = value.get("item")
    if not isinstance(item, Mapping):
        raise ValueError(f"{kind.type} without an item")
    item_kind = _ITEMS.get(str(item.get("type")))
    return None if item_kind is None else kind(_read(item_kind, item))


def _read(kind: type, value: Mapping[str, object]) -> Any:
    return _adapter(kind).validate_python({key: entry for key, entry in value.items() if key != "type"})


@lru_cache(maxsize=64)
def _adapter(kind: type) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


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
