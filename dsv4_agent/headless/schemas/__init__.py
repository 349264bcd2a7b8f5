"""The published JSON Schemas of what `dsv4 run` prints."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def events_schema_text() -> str:
    """The JSON Schema (2020-12) of one line of stream-json, as published."""
    return files(__package__).joinpath("events.schema.json").read_text(encoding="utf-8")


def events_schema() -> dict[str, Any]:
    """The same, parsed; `$defs` has one entry for each event type."""
    schema: dict[str, Any] = json.loads(events_schema_text())
    return schema
