"""Bash's grammar (tree-sitter): its parser, and what its nodes say about words."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from tree_sitter import Language, Node, Parser

_WORDS = frozenset({"word", "number", "string", "raw_string", "ansi_c_string", "translated_string"}) | {
    "concatenation",
    "simple_expansion",
    "expansion",
    "arithmetic_expansion",
    "command_substitution",
    "process_substitution",
    "brace_expression",
    "extglob_pattern",
}


@cache
def parser() -> Parser:
    """The one of this process."""
    import tree_sitter_bash

    return Parser(Language(tree_sitter_bash.language()))


def text_of(node: Node) -> str:
    """A node as it is written."""
    return (node.text or b"").decode("utf-8", "replace")


def strays(redirect: Node) -> Iterator[Node]:
    """Words that the grammar counts to a redirect and bash gives to the command: `git >log push`."""
    seen_target = redirect.type == "heredoc_redirect"
    for child in redirect.children:
        if child.type == "file_descriptor":
            if not text_of(child).isdigit():  # `-o2>log`: bash takes the whole word for an argument
                yield child
        elif child.type.endswith("_redirect"):
            yield from strays(child)
        elif child.is_named and not child.type.startswith("heredoc_") and child.type in _WORDS:
            if seen_target:
                yield child
            seen_target = True
