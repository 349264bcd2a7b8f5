"""The items of a plan, each with an id and the values of its placeholders."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsv4_agent.batch.derivation import Derivation
from dsv4_agent.batch.paths import Paths
from dsv4_agent.batch.plan import Items, PlanError
from dsv4_agent.batch.template import Value, Values

MAX_ITEMS = 100_000
_SIZE = 256 << 20
_ID_LENGTH = 60
_NOT_IN_ID = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Item:
    """One unit of work: `index` from 0 is the order of integration, `id` unique in the batch."""

    index: int
    id: str
    values: Values
    repository: Path


@dataclass(frozen=True, slots=True)
class Source:
    """What items are found with: the repository's top and the files of its base commit."""

    repository: Path
    files: Sequence[str]


def of_glob(items: Items, source: Source) -> list[Item]:
    """An item a file of the base commit. Raises `PlanError` where a pattern matches nothing."""
    patterns = items.glob or ()
    for pattern in patterns:
        if not any(map(Paths((pattern,)).holds, source.files)):
            raise PlanError(
                f"glob {pattern!r} matches no file of the base commit; check it with git ls-files"
            )
    wanted, unwanted = Paths(patterns), Paths(items.exclude)
    found = [path for path in source.files if wanted.holds(path) and not unwanted.holds(path)]
    if not found:
        raise PlanError("exclude leaves no file of glob; check both")
    return _numbered(({"path": path} for path in found), items, source)


def of_lines(text: str, items: Items, source: Source, where: str) -> list[Item]:
    """An item a line that is not blank; a line that is a JSON object gives its values."""
    rows = [line for line in _lines(text) if line.strip()]
    if not rows:
        raise PlanError(f"{where} gives no items; it is empty")
    return _numbered((_of_line(row.strip()) for row in rows), items, source)


def of_jsonl(text: str, items: Items, source: Source, where: str) -> list[Item]:
    """An item a JSON object. Raises `PlanError` with the number of a bad line."""
    rows: list[Mapping[str, object]] = []
    for number, line in enumerate(_lines(text), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PlanError(f"{where} line {number} is not JSON: {error}; mend it there") from error
        if not isinstance(row, dict):
            raise PlanError(f"{where} line {number} is not a JSON object; write {{...}}")
        rows.append(row)
    if not rows:
        raise PlanError(f"{where} gives no items; it is empty")
    return _numbered(rows, items, source)


def of_repositories(paths: Sequence[Path], items: Items, source: Source) -> list[Item]:
    """An item a repository, given by its top folder."""
    rows = ({"repository": str(path), "name": path.name} for path in paths)
    numbered = _numbered(rows, items, source)
    return [Item(item.index, item.id, item.values, path) for item, path in zip(numbered, paths, strict=False)]


def read_source(path: Path) -> str:
    """The text of a file of items. Raises `PlanError`."""
    try:
        if path.stat().st_size > _SIZE:
            raise PlanError(f"{path} is over {_SIZE >> 20} MiB; split it")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PlanError(f"items: {path} can't be read: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise PlanError(f"items: {path} is not UTF-8; convert it") from error


def _lines(text: str) -> list[str]:
    """Only a line feed ends a line: JSON and names of files may hold what else `str.splitlines` cuts at."""
    return text.split("\n")


def _of_line(line: str) -> Mapping[str, object]:
    if line.startswith("{"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            return row
    return {"line": line}


def _numbered(rows: Iterable[Mapping[str, object]], items: Items, source: Source) -> list[Item]:
    result: list[Item] = []
    taken: set[str] = set()
    derive = Derivation(source.files)
    for index, row in enumerate(rows):
        if index == items.limit:
            break
        if index >= MAX_ITEMS:
            raise PlanError(f"there are over {MAX_ITEMS:,} items; set items.limit or split the plan")
        values = {name: _value(name, value) for name, value in row.items()}
        id = _id(values, index, taken)
        taken.add(id.casefold())
        given = {**derive.values(values), "index": str(index), **values, "id": id}
        result.append(Item(index, id, given, source.repository))
    return result


def _value(name: str, value: object) -> Value:
    match value:
        case str():
            return _whole(name, value)
        case bool() | int() | float() | None:
            return json.dumps(value)
        case list() if all(isinstance(part, str) for part in value):
            return tuple(_whole(name, part) for part in value)
    raise PlanError(f"item value {name!r} must be a text, a number or a list of texts")


def _whole(name: str, text: str) -> str:
    if "\0" in text:
        raise PlanError(
            f"item value {name!r} holds a NUL byte, which no command takes; "
            "end each item with a line feed (git ls-files without -z, find without -print0)"
        )
    return text


def _id(values: Mapping[str, Value], index: int, taken: set[str]) -> str:
    given = values.get("id") or values.get("path") or values.get("line") or values.get("name")
    if given is None:
        given = "-".join(value for value in values.values() if isinstance(value, str))
    text = given if isinstance(given, str) else "-".join(given)
    slug = _NOT_IN_ID.sub("-", text).strip("-._")[:_ID_LENGTH].strip("-._").replace("..", ".") or "item"
    if slug.endswith(".lock"):  # git refuses such a branch name
        slug = slug.removesuffix(".lock") + "-lock"
    if slug.casefold() in taken:
        slug = f"{slug}-{index + 1}"
    while slug.casefold() in taken:
        slug += "x"
    return slug
