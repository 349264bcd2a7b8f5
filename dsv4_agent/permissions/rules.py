"""Permission rules: `tool` or `tool(pattern)`.

For `shell` the pattern is a command: `git status:*` (this, alone or with more words), `python3 -m unittest*`
(`*` stands for anything) or an exact line. For file tools it is a path relative to the workspace with `**`,
`*` and `?`. A `read` rule also covers what else shows files (grep, glob, outline, symbols, git_diff and
git_show), an `edit` rule also covers write. What may not be read may not be edited either: an edit that fails
shows the lines nearest to it. The names that other agents use (`Bash`, `Read`, `Edit`, ...)
are understood.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from dsv4_agent.permissions.shell import Analysis, as_text

_ALIASES = {"bash": "shell", "multiedit": "edit", "ls": "glob"}
_COVERS = {
    "read": frozenset({"read", "grep", "glob", "outline", "symbols", "git_diff", "git_show"}),
    "edit": frozenset({"edit", "write"}),
}
_RULE = re.compile(r"\s*([A-Za-z_*][A-Za-z0-9_*.-]*)\s*(?:\((.*)\))?\s*", re.DOTALL)


class RuleError(ValueError):
    """A rule can't be read; the message shows it and the grammar."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; `pattern` None means every use of the tool. `text` is as the user wrote it."""

    tool: str
    pattern: str | None
    text: str

    def names(self, tool: str) -> bool:
        """Whether the rule is about this tool."""
        return tool in _COVERS.get(self.tool, {self.tool}) or self.tool == "*"

    def denies(self, tool: str) -> bool:
        """Whether the rule, as one that denies, is about this tool."""
        return self.names(tool) or (tool == "edit" and self.names("read"))

    def matches_words(self, words: tuple[str, ...]) -> bool:
        """Whether a single command, given as words, matches."""
        if self.pattern is None or self.pattern in {"*", ":*"}:
            return True
        text = as_text(words)
        if self.pattern.endswith(":*"):
            prefix = self.pattern[:-2].strip()
            return text == prefix or text.startswith(prefix + " ")
        return _fits(self.pattern, text)

    def denies_shell(self, analysis: Analysis) -> bool:
        """Whether any command found anywhere matches."""
        return self.pattern is None or any(self.matches_words(words) for words in analysis.found)

    def matches_path(self, paths: Iterable[str], *, ignore_case: bool) -> bool:
        """Whether one of the spellings of a path matches."""
        if self.pattern is None or self.pattern in {"*", "**"}:
            return True
        expression = _path_pattern(self.pattern.removeprefix("./"), ignore_case)
        return any(expression.fullmatch(path) for path in paths)


def parse_rule(text: str) -> Rule:
    """Read one rule. Raises `RuleError`."""
    found = _RULE.fullmatch(text)
    if not found or (found[2] is not None and not found[2].strip()):
        raise RuleError(
            f"can't read the rule {text!r}: write tool or tool(pattern), e.g. shell(git status:*)"
        )
    name = found[1].lower()
    return Rule(_ALIASES.get(name, name), found[2].strip() if found[2] else None, text.strip())


def parse_rules(text: str) -> tuple[Rule, ...]:
    """Read rules separated by commas or spaces; separators inside parentheses belong to the pattern."""
    parts: list[str] = []
    depth = start = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0 and (character == "," or character.isspace()):
            parts.append(text[start:position])
            start = position + 1
    parts.append(text[start:])
    return tuple(parse_rule(part) for part in parts if part.strip())


def _fits(pattern: str, text: str) -> bool:
    """Whether a text is the pattern with anything for its stars; in one pass, however many there are."""
    first, *rest = pattern.split("*")
    if not rest:
        return text == first
    *middle, last = rest
    at, end = len(first), len(text) - len(last)
    if not text.startswith(first) or not text.endswith(last):
        return False
    for part in middle:
        if (found := text.find(part, at, max(at, end))) < 0:
            return False
        at = found + len(part)
    return at <= end


def _path_pattern(pattern: str, ignore_case: bool) -> re.Pattern[str]:
    tokens = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    meanings = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    text = "".join(meanings.get(token, re.escape(token)) for token in tokens)
    return re.compile(text, re.DOTALL | (re.IGNORECASE if ignore_case else 0))
