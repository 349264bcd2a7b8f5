"""What a shell command would run, read from bash's own grammar (tree-sitter).

Two readings, because a deny rule and an allow rule fail in opposite directions. `Analysis.plain` is None
unless *every* node of the command is understood: literal words, pipes, lists, harmless redirects. Only then
may an allow rule decide. `Analysis.found` is every command found anywhere, wrappers stripped and names
reduced to their basename, however strange the rest is: what deny rules look at.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from tree_sitter import Node

from dsv4_agent.permissions.bash_grammar import parser, strays, text_of
from dsv4_agent.permissions.shell_search import MAX_FOUND, commands_in

MAX_LENGTH = 10_000
"""Characters. A longer command is never judged: long chains have disabled deny rules in other agents."""

_GLUE = frozenset({"program", "list", "pipeline", "comment", "&&", "||", ";", "|", "\n"})
_HARMLESS_TARGETS = frozenset({"/dev/null"})
# These evaluate, define or run what their arguments say, even where the arguments are plain literals.
_EVALUATING = frozenset(
    {
        "eval",
        "exec",
        "source",
        ".",
        "trap",
        "alias",
        "let",
        "declare",
        "typeset",
        "local",
        "export",
        "readonly",
    }
    | {"read", "test", "[", "unset", "enable", "mapfile", "readarray", "coproc", "shopt", "set", "compgen"}
    | {"complete", "command", "builtin", "env", "xargs", "sudo", "nohup", "time"}
)
_TILDE = re.compile("=(?:.*:)?~")  # after these bash expands it in any word, not at its start alone


@dataclass(frozen=True, slots=True)
class Analysis:
    """`plain`: the words of each command if all is understood, else None with `reason` saying what was not.

    `found`: the words of each command that could be found anywhere. `readable`: bash's grammar accepts the
    whole, so `found` can be trusted to be complete.
    """

    plain: tuple[tuple[str, ...], ...] | None
    found: tuple[tuple[str, ...], ...]
    readable: bool
    reason: str | None = None


def analyse(command: str) -> Analysis:
    """Read a command line. Never raises; what can't be judged has `readable=False` and a reason."""
    if len(command) > MAX_LENGTH:
        return Analysis(None, (), False, f"longer than {MAX_LENGTH:,} characters")
    if strange := _strange_character(command):
        return Analysis(None, commands_in(command), False, f"contains the character U+{ord(strange):04X}")
    tree = parser().parse(command.encode("utf-8", "surrogatepass"))
    found = commands_in(command)
    if len(found) > MAX_FOUND:
        return Analysis(None, found, False, "has too many commands in it")
    if tree.root_node.has_error:
        return Analysis(None, found, False, "is not valid bash")
    try:
        _check_gaps(tree.root_node, command.encode())
        plain = tuple(_plain_commands(tree.root_node))
    except RecursionError:
        return Analysis(None, found, False, "is nested too deeply")
    except _NotPlainError as error:
        return Analysis(None, found, True, str(error))
    return Analysis(plain, found, True)


def as_text(words: tuple[str, ...]) -> str:
    """Words as one line that rules match against; a word that needs quotes has them."""
    return " ".join(word if _BARE.fullmatch(word) else shlex.quote(word) for word in words)


_BARE = re.compile(r"[^\s'\"\\$`;&|<>()]+")


class _NotPlainError(Exception):
    """A part of the command is outside the small language that allow rules may judge."""


def _strange_character(text: str) -> str | None:
    for character in text:
        if character in " \n\t":
            continue
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zs", "Zl", "Zp"}:
            return character
    return None


def _check_gaps(root: Node, command: bytes) -> None:
    """Only blanks lie between tokens: bash joins what a continued line seems to part, and `\\ ` is a word.

    A blank beside the continuation keeps the words apart; a whole line break before it would end the command.
    """
    gaps: list[bytes] = []
    at = 0
    stack = [root]
    while stack:
        node = stack.pop()
        if node.children and node.type not in _TOKENS:
            stack.extend(reversed(node.children))
            continue
        gaps.append(command[at : node.start_byte])
        at = max(at, node.end_byte)
    if not all(_GAP.fullmatch(gap) for gap in (*gaps, command[at:])):
        raise _NotPlainError("has a line continued within a word, or a part that is no word")


_TOKENS = frozenset({"string", "raw_string", "comment", "heredoc_body"})
_GAP = re.compile(rb"[ \t\n]*|(?:\\\n)*[ \t](?:[ \t]|\\\n)*")


def _plain_commands(node: Node) -> Iterator[tuple[str, ...]]:
    match node.type:
        case "command":
            yield _plain_words(node)
        case "redirected_statement":
            for child in node.children:
                if child.type == "file_redirect":
                    _check_redirect(child)
                else:
                    yield from _plain_commands(child)
        case kind if kind in _GLUE:
            for child in node.children:
                yield from _plain_commands(child)
        case kind:
            raise _NotPlainError(f"contains {kind.replace('_', ' ')}")


def _plain_words(command: Node) -> tuple[str, ...]:
    words = tuple(_literal(child) for child in command.children)
    name = words[0]
    if name in _EVALUATING or (name == "printf" and "-v" in words):
        raise _NotPlainError(f"runs {name}, which may execute its arguments")
    if any(character in name for character in "*?["):
        raise _NotPlainError("has a pattern as its program")
    return words


def _check_redirect(redirect: Node) -> None:
    if any(True for _ in strays(redirect)):
        raise _NotPlainError("has words after a redirect")
    target = redirect.child_by_field_name("destination")
    text = text_of(target) if target is not None else ""
    operator = next((child.type for child in redirect.children if not child.is_named), "")
    duplicates = operator in {">&", "<&"} and text.isdigit()
    if not duplicates and text not in _HARMLESS_TARGETS:
        raise _NotPlainError("redirects to or from a file")


def _literal(node: Node) -> str:
    """The exact word bash would pass, or `_NotPlainError` where expansions could change it."""
    match node.type:
        case "command_name":
            return _literal(node.children[0])
        case "word" | "number":
            text = text_of(node)
            if node.children or any(character in text for character in "\\$`{}! \t\n"):
                raise _NotPlainError("has a word that the shell would expand")
            if text[:1] in "~*?[" or _TILDE.search(text):
                raise _NotPlainError("has a word that the shell would expand")
            return text
        case "raw_string":
            return text_of(node)[1:-1]
        case "string":
            text = text_of(node)[1:-1]
            if any(child.type not in {'"', "string_content"} for child in node.children) or "\\" in text:
                raise _NotPlainError("has an expansion inside quotes")
            return text
        case "concatenation":
            return "".join(_literal(child) for child in node.children)
        case kind:
            raise _NotPlainError(f"contains {kind.replace('_', ' ')}")
