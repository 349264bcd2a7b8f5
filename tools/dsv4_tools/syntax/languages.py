"""The languages whose grammar is installed, by file name. A grammar is loaded when it is first needed."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Language, Parser, Query, Tree

_BASH = "(function_definition name: (word) @name) @definition.function"
_CPP = """
(function_definition declarator: (function_declarator
  declarator: (qualified_identifier) @name)) @definition.method
(namespace_definition name: (namespace_identifier) @name) @definition.module
"""
_TYPESCRIPT = """
(type_alias_declaration name: (type_identifier) @name) @definition.type
(enum_declaration name: (identifier) @name) @definition.enum
"""


@dataclass(frozen=True, slots=True)
class Syntax:
    """A grammar and the queries for what it defines.

    `module` and `function` make the language; `tags` are the grammar packages whose definitions hold, `more`
    is a query of our own for what those leave out.
    """

    name: str
    module: str
    function: str = "language"
    tags: tuple[str, ...] = ()
    more: str = ""

    def parse(self, data: bytes) -> Tree:
        """The tree of a file's bytes; there always is one, with error nodes where the text is none."""
        return _parser(self).parse(data)

    def definitions(self) -> Query | None:
        """The query for definitions; None for a language that has none."""
        return _query(self)


_SYNTAXES = {
    "python": Syntax("python", "tree_sitter_python", tags=("tree_sitter_python",)),
    "bash": Syntax("bash", "tree_sitter_bash", more=_BASH),
    "c": Syntax("c", "tree_sitter_c", tags=("tree_sitter_c",)),
    "cpp": Syntax("cpp", "tree_sitter_cpp", tags=("tree_sitter_cpp",), more=_CPP),
    "go": Syntax("go", "tree_sitter_go", tags=("tree_sitter_go",)),
    "java": Syntax("java", "tree_sitter_java", tags=("tree_sitter_java",)),
    "javascript": Syntax("javascript", "tree_sitter_javascript", tags=("tree_sitter_javascript",)),
    "json": Syntax("json", "tree_sitter_json"),
    "rust": Syntax("rust", "tree_sitter_rust", tags=("tree_sitter_rust",)),
    "typescript": Syntax(
        "typescript",
        "tree_sitter_typescript",
        "language_typescript",
        ("tree_sitter_javascript", "tree_sitter_typescript"),
        _TYPESCRIPT,
    ),
    "tsx": Syntax(
        "tsx",
        "tree_sitter_typescript",
        "language_tsx",
        ("tree_sitter_javascript", "tree_sitter_typescript"),
        _TYPESCRIPT,
    ),
}
_SUFFIXES = {
    **dict.fromkeys((".py", ".pyi"), "python"),
    **dict.fromkeys((".sh", ".bash"), "bash"),
    ".c": "c",
    **dict.fromkeys((".cc", ".cpp", ".cxx", ".h", ".hh", ".hpp", ".hxx", ".cu", ".cuh"), "cpp"),
    ".go": "go",
    ".java": "java",
    **dict.fromkeys((".js", ".mjs", ".cjs", ".jsx"), "javascript"),
    ".json": "json",
    ".rs": "rust",
    **dict.fromkeys((".ts", ".mts", ".cts"), "typescript"),
    ".tsx": "tsx",
}


def syntax_of(path: str) -> Syntax | None:
    """The language of a file by its name; None where there is no grammar for it."""
    return _SYNTAXES.get(_SUFFIXES.get(PurePosixPath(path).suffix.lower(), ""))


def known_languages() -> tuple[str, ...]:
    """The names of all languages, for messages."""
    return tuple(_SYNTAXES)


@functools.cache
def _language(syntax: Syntax) -> Language:
    from tree_sitter import Language

    return Language(getattr(importlib.import_module(syntax.module), syntax.function)())


@functools.cache
def _parser(syntax: Syntax) -> Parser:
    from tree_sitter import Parser

    return Parser(_language(syntax))


@functools.cache
def _query(syntax: Syntax) -> Query | None:
    """Patterns of other grammars that don't fit this one are left out, one by one."""
    from tree_sitter import Query, QueryError

    source = "\n".join(importlib.import_module(module).TAGS_QUERY for module in syntax.tags) + syntax.more
    if not source.strip():
        return None
    language = _language(syntax)
    try:
        return Query(language, source)
    except QueryError:
        fitting = [pattern for pattern in _patterns(source) if _fits(language, pattern)]
        return Query(language, "\n".join(fitting))


def _fits(language: Language, pattern: str) -> bool:
    from tree_sitter import Query, QueryError

    try:
        Query(language, pattern)
    except QueryError:
        return False
    return True


def _patterns(source: str) -> list[str]:
    """The top-level patterns of a query, each with the captures and predicates behind it."""
    found: list[str] = []
    depth, text, quoted = 0, "", False
    lines = (line for line in source.splitlines() if not line.lstrip().startswith(";"))
    for char in "\n".join(lines):
        if depth == 0 and char in "([" and not text.rstrip().endswith(("@", ".")) and text.strip():
            found.append(text)
            text = ""
        text += char
        if char == '"':
            quoted = not quoted
        elif not quoted:
            depth += (char in "([") - (char in ")]")
    return [*found, text] if text.strip() else found
