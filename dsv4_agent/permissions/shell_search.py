"""Every command that a shell line may run, however it is hidden: what deny rules look at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from tree_sitter import Node

from dsv4_agent.permissions.bash_grammar import parser, strays, text_of

MAX_FOUND = 500
"""Commands. Nothing is looked for beyond the first one too many."""

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
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")


def commands_in(line: str) -> tuple[tuple[str, ...], ...]:
    """The words of each command, wrappers stripped, programs by their basename; at most `MAX_FOUND + 1`."""
    return tuple(islice(_Finder().commands(line), MAX_FOUND + 1))


class _Finder:
    """Finds commands within commands. Each text is read once and the number is bounded: no input is slow."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def commands(self, text: str) -> Iterator[tuple[str, ...]]:
        """Every command of a text, at whatever depth."""
        if text in self._seen:
            return
        self._seen.add(text)
        stack = [parser().parse(text.encode("utf-8", "surrogatepass")).root_node]
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
                words += strays(child)
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


def _loose(node: Node) -> str:
    """A word with quotes and backslashes removed, expansions left as written."""
    match node.type:
        case "raw_string":
            return text_of(node)[1:-1]
        case "string":
            return text_of(node)[1:-1].replace("\\", "")
        case "ansi_c_string":
            return _ansi(text_of(node)[2:-1])
        case "translated_string":
            return _loose(node.children[-1])
        case "concatenation" | "command_name":
            return "".join(_loose(child) for child in node.children) or text_of(node)
        case "word":
            return text_of(node).replace("\\", "")
        case _:
            return text_of(node)


def _ansi(text: str) -> str:
    """What `$'...'` stands for."""
    try:
        return text.encode("latin-1", "backslashreplace").decode("unicode_escape")
    except UnicodeDecodeError:
        return text
