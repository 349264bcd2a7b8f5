"""Questions to a syntax tree: definitions, uses of a name, errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dsv4_tools.syntax.languages import Syntax

if TYPE_CHECKING:
    from tree_sitter import Node, Tree

FILE_BYTES = 2_000_000
"""Larger files are not parsed."""


@dataclass(frozen=True, slots=True)
class Definition:
    """Something that a file defines: lines count from 1, `depth` says in how many others it lies."""

    kind: str
    name: str
    line: int
    last_line: int
    depth: int


@dataclass(frozen=True, slots=True)
class Use:
    """A place where a name stands as a name, not inside a string or a comment. Line and column from 1."""

    line: int
    column: int
    defines: bool


@dataclass(frozen=True, slots=True)
class Problem:
    """A place where a text is not of its language. Line and column count from 1."""

    line: int
    column: int
    text: str


def definitions(syntax: Syntax, data: bytes) -> list[Definition]:
    """What a file defines, in the order of its lines."""
    query = syntax.definitions()
    if query is None:
        return []
    from tree_sitter import QueryCursor

    found: dict[tuple[int, int], tuple[str, Node]] = {}
    names: dict[tuple[int, int], str] = {}
    for _, captures in QueryCursor(query).matches(syntax.parse(data).root_node):
        kinds = [name for name in captures if name.startswith("definition.")]
        if not kinds or "name" not in captures:
            continue
        node, name = captures[kinds[0]][0], captures["name"][0]
        kind = kinds[0].removeprefix("definition.")
        place = (node.start_byte, name.start_byte)
        # A method is also a function to the more general of two patterns.
        if place not in found or found[place][0] == "function":
            found[place] = (kind, node)
            names[place] = _text(name)
    rows = sorted(found.items(), key=lambda item: (item[0][0], -item[1][1].end_byte))
    result: list[Definition] = []
    open_until: list[int] = []
    for place, (kind, node) in rows:
        while open_until and open_until[-1] <= node.start_byte:
            open_until.pop()
        if kind == "constant" and open_until:
            continue
        result.append(Definition(kind, names[place], *_lines(node), len(open_until)))
        open_until.append(node.end_byte)
    return result


def uses(syntax: Syntax, data: bytes, name: str) -> tuple[list[Use], int]:
    """Where a name stands as an identifier; and how often its text stands in strings and comments."""
    tree = syntax.parse(data)
    wanted = name.encode()
    named: list[Use] = []
    other = 0
    defining = _defining(syntax, tree)
    for node in _leaves(tree.root_node):
        text = node.text or b""
        if (text == wanted and node.is_named and "identifier" in node.type) or _is_word(node, text, wanted):
            point = node.start_point
            named.append(Use(point.row + 1, point.column + 1, node.start_byte in defining))
        elif wanted in text:
            other += text.count(wanted)
    return named, other


def problems(syntax: Syntax, data: bytes) -> list[Problem]:
    """The places where a text is not of its language, in order."""
    root = syntax.parse(data).root_node
    if not root.has_error:
        return []
    lines = data.split(b"\n")
    return [_problem(node, lines) for node in _nodes(root) if node.is_error or node.is_missing]


def _problem(node: Node, lines: list[bytes]) -> Problem:
    point = node.start_point
    line = lines[point.row].decode("utf-8", "replace").strip()
    text = f"{node.type!r} is missing" if node.is_missing else f"unexpected: {line}"
    return Problem(point.row + 1, point.column + 1, text)


def _lines(node: Node) -> tuple[int, int]:
    first, last = node.start_point, node.end_point
    return first.row + 1, last.row + (last.column > 0 or last.row == first.row)


def _is_word(node: Node, text: bytes, wanted: bytes) -> bool:
    """Shells have words where others have identifiers."""
    return text == wanted and node.type in ("word", "variable_name")


def _defining(syntax: Syntax, tree: Tree) -> set[int]:
    query = syntax.definitions()
    if query is None:
        return set()
    from tree_sitter import QueryCursor

    return {
        captures["name"][0].start_byte
        for _, captures in QueryCursor(query).matches(tree.root_node)
        if "name" in captures and any(name.startswith("definition.") for name in captures)
    }


def _nodes(root: Node) -> Iterator[Node]:
    cursor = root.walk()
    while True:
        if cursor.node is not None:
            yield cursor.node
        if cursor.goto_first_child() or cursor.goto_next_sibling():
            continue
        while cursor.goto_parent():
            if cursor.goto_next_sibling():
                break
        else:
            return


def _leaves(root: Node) -> Iterator[Node]:
    return (node for node in _nodes(root) if not node.child_count)


def _text(node: Node) -> str:
    return (node.text or b"").decode("utf-8", "replace")
