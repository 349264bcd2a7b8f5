"""The batch as JSON, an object a line: every event. Unknown types and fields are to be ignored."""

from __future__ import annotations

import json
from typing import Any

from dsv4_agent.batch.events import (
    BatchEnded,
    BatchEvent,
    BatchStarted,
    Delivered,
    ItemEnded,
    ItemIntegrated,
    ItemStarted,
)
from dsv4_agent.batch.executor import ItemProgress
from dsv4_agent.batch.states import Spent
from dsv4_agent.workbench.plain_text import json_escaped, without_surrogates

SCHEMA_VERSION = 1


def record(event: BatchEvent) -> str:
    """One line, without its end."""
    return without_surrogates(json_escaped(json.dumps(_object(event), ensure_ascii=False)))


def _object(event: BatchEvent) -> dict[str, Any]:
    match event:
        case BatchStarted(run, items, finished, jobs):
            head = {"type": "batch.started", "schema_version": SCHEMA_VERSION, "batch": run}
            return {**head, "items": items, "finished": finished, "jobs": jobs}
        case ItemStarted(id, resumed):
            return {"type": "item.started", "id": id, "resumed": resumed}
        case ItemProgress(id, text):
            return {"type": "item.progress", "id": id, "text": text}
        case ItemEnded(result):
            return {"type": "item.ended", **result.to_json()}
        case ItemIntegrated(outcome):
            state = outcome.state.value
            end = {"id": outcome.id, "state": state, "commit": outcome.commit}
            return {"type": "item.integrated", **end, "reason": outcome.reason}
        case Delivered(what, where):
            return {"type": "delivered", "what": what, "where": where}
        case BatchEnded(run, results, spent, seconds, failed):
            counts: dict[str, int] = {}
            for result in results:
                counts[result.state.value] = counts.get(result.state.value, 0) + 1
            return {
                "type": "batch.ended",
                "batch": run,
                "failed": failed,
                "counts": counts,
                "items": [result.to_json() for result in results],
                "spent": {name: getattr(spent, name) for name in Spent.__dataclass_fields__},
                "seconds": round(seconds, 3),
            }
