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
from functools import cache
from itertools import islice

from tree_sitter import Language, Node, Parser

MAX_LENGTH = 10_000
"""Characters. A longer command is never judged: long chains have disabled deny rules in other agents."""

_MAX_FOUND = 500
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
_WRAPPERS = frozenset(
    {
        "sudo",
        "doas",
        "env",
        "command",
        "builtin",
        "exec",
        "nohup",
        "setsid",
        "stdbuf",
        "nice",
        "ionice",
        "time",
    }
    | {"timeout", "xargs", "busybox", "chroot", "unbuffer", "watch"}
)
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "eval"})
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")


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
        return Analysis(None, _found(command), False, f"contains the character U+{ord(strange):04X}")
    tree = _parser().parse(command.encode("utf-8", "surrogatepass"))
    found = _found(command)
    if len(found) > _MAX_FOUND:
        return Analysis(None, found, False, "has too many commands in it")
    if tree.root_node.has_error:
        return Analysis(None, found, False, "is not valid bash")
    try:
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


@cache
def _parser() -> Parser:
    import tree_sitter_bash

    return Parser(Language(tree_sitter_bash.language()))


def _found(command: str) -> tuple[tuple[str, ...], ...]:
    return tuple(islice(_Finder().commands(command), _MAX_FOUND + 1))


def _strange_character(text: str) -> str | None:
    for character in text:
        if character in " \n\t":
            continue
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zs", "Zl", "Zp"}:
            return character
    return None


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
    target = redirect.child_by_field_name("destination")
    text = _text(target) if target is not None else ""
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
            text = _text(node)
            if node.children or any(character in text for character in "\\$`{}!"):
                raise _NotPlainError("has a word that the shell would expand")
            if text[:1] in "~*?[":
                raise _NotPlainError("has a word that the shell would expand")
            return text
        case "raw_string":
            return _text(node)[1:-1]
        case "string":
            text = _text(node)[1:-1]
            if any(child.type not in {'"', "string_content"} for child in node.children) or "\\" in text:
                raise _NotPlainError("has an expansion inside quotes")
            return text
        case "concatenation":
            return "".join(_literal(child) for child in node.children)
        case kind:
            raise _NotPlainError(f"contains {kind.replace('_', ' ')}")


def _text(node: Node) -> str:
    return (node.text or b"").decode("utf-8", "replace")


def _loose(node: Node) -> str:
    """A word with quotes and backslashes removed, expansions left as written."""
    match node.type:
        case "raw_string":
            return _text(node)[1:-1]
        case "string":
            return _text(node)[1:-1].replace("\\", "")
        case "concatenation" | "command_name":
            return "".join(_loose(child) for child in node.children) or _text(node)
        case "word":
            return _text(node).replace("\\", "")
        case _:
            return _text(node)


class _Finder:
    """Finds commands within commands. Each text is read once and the number is bounded: no input is slow."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def commands(self, text: str) -> Iterator[tuple[str, ...]]:
        """Every command of a text, at whatever depth."""
        if text in self._seen:
            return
        self._seen.add(text)
        stack = [_parser().parse(text.encode("utf-8", "surrogatepass")).root_node]
        while stack:
            node = stack.pop()
            stack.extend(node.children)
            if node.type == "command":
                skipped = {"variable_assignment", "comment"}
                words = tuple(_loose(child) for child in node.children if child.type not in skipped)
                yield from self._unwrapped(words)

    def _unwrapped(self, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        """The command itself, and what it wraps: `sudo -u x rm f` is also `rm f`; `bash -c "rm f"` too."""
        if not words:
            return
        yield from self._named(words)
        if _basename(words[0]) in _WRAPPERS:
            # Options of wrappers take values we don't know, so every later word may be the program.
            for start in range(1, len(words)):
                if not words[start].startswith("-") and not _ASSIGNMENT.match(words[start]):
                    yield from self._named(words[start:])

    def _named(self, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        name = _basename(words[0])
        yield (name, *words[1:])
        if name in _SHELLS:
            for word in words[1:]:
                if not word.startswith("-"):
                    yield from self.commands(word)
        if name == "find":
            for start, word in enumerate(words[:-1]):
                if word in {"-exec", "-execdir", "-ok", "-okdir"}:
                    yield from self._unwrapped(words[start + 1 :])


def _basename(word: str) -> str:
    return word.rsplit("/", 1)[-1]
