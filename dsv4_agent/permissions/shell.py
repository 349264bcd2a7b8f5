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
    | {"timeout", "xargs", "busybox", "chroot", "unbuffer", "watch", "coproc", "trap", "su", "runuser"}
    | {"pkexec", "script", "flock", "strace", "ltrace", "parallel", "chrt", "taskset", "unshare", "nsenter"}
    | {"setpriv", "prlimit", "systemd-run", "fakeroot", "xvfb-run", "dbus-run-session"}
)
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "eval"})
_OPTION = re.compile(r"-[A-Za-z]|--[a-z-]+=")
_ALIAS = re.compile(r"alias\.[^=]*=")
_GIT_VALUED = frozenset(
    {"-C", "-c", "--git-dir", "--work-tree", "--namespace", "--config-env", "--attr-source"}
)
_INPUTS = frozenset({"heredoc_redirect", "herestring_redirect"})
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
_TILDE = re.compile("=(?:.*:)?~")  # after these bash expands it in any word, not at its start alone
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
    if any(True for _ in _strays(redirect)):
        raise _NotPlainError("has words after a redirect")
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
            if node.children or any(character in text for character in "\\$`{}! \t\n"):
                raise _NotPlainError("has a word that the shell would expand")
            if text[:1] in "~*?[" or _TILDE.search(text):
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
        case "ansi_c_string":
            return _ansi(_text(node)[2:-1])
        case "translated_string":
            return _loose(node.children[-1])
        case "concatenation" | "command_name":
            return "".join(_loose(child) for child in node.children) or _text(node)
        case "word":
            return _text(node).replace("\\", "")
        case _:
            return _text(node)


def _ansi(text: str) -> str:
    """What `$'...'` stands for."""
    try:
        return text.encode("latin-1", "backslashreplace").decode("unicode_escape")
    except UnicodeDecodeError:
        return text


def _strays(redirect: Node) -> Iterator[Node]:
    """Words that the grammar counts to a redirect and bash gives to the command: `git >log push`."""
    seen_target = redirect.type == "heredoc_redirect"
    for child in redirect.children:
        if child.type == "file_descriptor":
            if not _text(child).isdigit():  # `-o2>log`: bash takes the whole word for an argument
                yield child
        elif child.type.endswith("_redirect"):
            yield from _strays(child)
        elif child.is_named and not child.type.startswith("heredoc_") and child.type in _WORDS:
            if seen_target:
                yield child
            seen_target = True


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
        more: dict[int, tuple[Node, ...]] = {}
        while stack:
            node = stack.pop()
            stack.extend(node.children)
            match node.type:
                case "redirected_statement":
                    redirects = tuple(child for child in node.children if child.type.endswith("_redirect"))
                    if last := _last_command(node):
                        more[last.id] = (*more.get(last.id, ()), *redirects)
                case "pipeline":
                    yield from self._piped(node)
                case "command":
                    yield from self._command(node, more.get(node.id, ()))
        # Bash joins continued lines before it looks for words; the grammar takes the break for a blank.
        if "\\\n" in text:
            yield from self.commands(text.replace("\\\n", ""))

    def _command(self, node: Node, redirects: tuple[Node, ...]) -> Iterator[tuple[str, ...]]:
        """A command with the words that stand behind redirects; a shell runs what it reads, too."""
        skipped = {"variable_assignment", "comment"}
        words: list[Node] = []
        inputs: list[Node] = []
        for child in (*node.children, *redirects):
            if child.type.endswith("_redirect"):
                words += _strays(child)
                inputs += [part for part in child.children if child.type in _INPUTS and part.is_named]
            elif child.type not in skipped:
                words.append(child)
        named = tuple(_loose(word) for word in words)
        yield from self._unwrapped(named)
        if any(_basename(word) in _SHELLS for word in named):
            for part in inputs:
                yield from self.commands(_loose(part))

    def _piped(self, pipeline: Node) -> Iterator[tuple[str, ...]]:
        """`echo 'rm f' | sh` is also `rm f`."""
        commands = [child for child in pipeline.children if child.type == "command"]
        for at, command in enumerate(commands):
            if at and any(_basename(_loose(word)) in _SHELLS for word in command.children):
                for earlier in commands[:at]:
                    words = [_loose(word) for word in earlier.children[1:]]
                    for text in (*words, " ".join(words)):
                        yield from self.commands(text)

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
            for word in words[1:]:  # or a whole command line: `su -c 'rm f'`, `env -S'rm f'`
                if any(blank in word for blank in " \t\n"):
                    yield from self.commands(_OPTION.sub("", word))

    def _named(self, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        name = _basename(words[0])
        yield (name, *words[1:])
        if name in _SHELLS:
            for word in words[1:]:
                if not word.startswith("-"):
                    yield from self.commands(word)
        if name == "eval":
            yield from self.commands(" ".join(words[1:]))
        if name == "git":
            yield from self._git(words[1:])
        if name == "find":
            for start, word in enumerate(words[:-1]):
                if word in {"-exec", "-execdir", "-ok", "-okdir"}:
                    yield from self._unwrapped(words[start + 1 :])

    def _git(self, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        """`git -C dir -c key=value push` is also `git push`, and `-c alias.x=push x` as well."""
        start = 0
        while start < len(words) and words[start].startswith("-"):
            value = words[start + 1] if start + 1 < len(words) else ""
            if words[start] == "-c" and (alias := _ALIAS.match(value)):
                text = value[alias.end() :]
                yield from self.commands(text[1:] if text.startswith("!") else f"git {text}")
            start += 2 if words[start] in _GIT_VALUED else 1
        if start:
            yield ("git", *words[start:])


def _last_command(node: Node) -> Node | None:
    """The command that a redirect behind `node`'s body belongs to."""
    while node.type != "command":
        inner = [child for child in node.named_children if not child.type.endswith("_redirect")]
        if not inner:
            return None
        node = inner[-1]
    return node


def _basename(word: str) -> str:
    return word.rsplit("/", 1)[-1]
