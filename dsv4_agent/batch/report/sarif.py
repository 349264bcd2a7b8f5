"""SARIF 2.1.0: what is known to be wrong at a place in a file, for code scanning."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from dsv4_agent.batch.events import BatchEnded
from dsv4_agent.batch.report.wording import why
from dsv4_agent.batch.states import ItemResult, State
from dsv4_agent.version import __version__
from dsv4_agent.workbench.plain_text import plain_line

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_PLACE = re.compile(
    r"^(?P<path>[^\s:()\"']{1,300}):(?P<line>\d{1,7})(?::(?P<column>\d{1,5}))?:\s*(?P<text>.*)$"
)
_TRACEBACK = re.compile(r'^\s*File "(?P<path>[^"]{1,300})", line (?P<line>\d{1,7})(?P<text>.*)$')
_RULES = {
    State.VERIFY_FAILED: "A check failed for this item.",
    State.CONFLICT: "The item's patch conflicts with an earlier one.",
}
_FINDINGS = 20
"""Places that are taken from one item's output."""


def sarif(ended: BatchEnded) -> str:
    """The document: a result for each place that a failed check or a conflict names."""
    results = [finding for item in ended.results for finding in _findings(item)]
    rules = [
        {"id": state.value, "shortDescription": {"text": text}, "defaultConfiguration": {"level": "error"}}
        for state, text in _RULES.items()
    ]
    driver = {"name": "dsv4", "version": __version__, "rules": rules}
    run = {"tool": {"driver": driver}, "results": results, "columnKind": "utf16CodeUnits"}
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _findings(item: ItemResult) -> Iterator[dict[str, Any]]:
    if item.state is State.CONFLICT:
        for path in item.files:
            if path in item.reason:
                yield _finding(item, path, None, None, why(item))
    if item.state is State.VERIFY_FAILED:
        for path, line, column, text in _places(item.output):
            yield _finding(item, path, line, column, text or why(item))


def _places(output: str) -> list[tuple[str, int, int | None, str]]:
    """`path:line[:column]: text` as compilers and linters write, and Python's tracebacks."""
    found: dict[tuple[str, int], tuple[str, int, int | None, str]] = {}
    for row in output.splitlines():
        match = _PLACE.match(row) or _TRACEBACK.match(row)
        if match is None or not _is_inside(match["path"]):
            continue
        line = int(match["line"])
        column = match.groupdict().get("column")
        place = (match["path"], line, int(column) if column else None, plain_line(match["text"].strip(), 500))
        if line:
            found.setdefault((match["path"], line), place)
    return list(found.values())[:_FINDINGS]


def _is_inside(path: str) -> bool:
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts and bool(pure.suffix)


def _finding(item: ItemResult, path: str, line: int | None, column: int | None, text: str) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": quote(path), "uriBaseId": "%SRCROOT%"}}
    if line is not None:
        place["region"] = {"startLine": line, **({"startColumn": column} if column else {})}
    return {
        "ruleId": item.state.value,
        "level": "error",
        "message": {"text": f"{item.id}: {text}"},
        "locations": [{"physicalLocation": place}],
        "partialFingerprints": {"dsv4Item": item.id},
    }
