"""The answers "always": allow rules of a project, in the user's configuration, not in the repository."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from dsv4_agent.permissions.rules import Rule, RuleError, parse_rule
from dsv4_agent.permissions.shell import analyse, as_text
from dsv4_agent.workbench.private_file import write_private
from dsv4_agent.workbench.settings import config_directory

FILE = "allowed.json"


class StandingRules:
    """Rules by project folder. Nothing here raises: what can't be kept holds for the session only."""

    def __init__(self, project: Path, path: Path | None = None) -> None:
        self._project = os.path.realpath(project)
        self._path = config_directory() / FILE if path is None else path
        self.warning: str | None = None

    def load(self) -> tuple[Rule, ...]:
        """The rules of this project; a line that can't be read allows nothing."""
        texts = self._all().get(self._project, [])
        rules: list[Rule] = []
        for text in texts:
            try:
                rules.append(parse_rule(text))
            except RuleError:
                self.warning = f"{self._path}: {text!r} is no rule and allows nothing"
        return tuple(rules)

    def add(self, rules: Iterable[Rule]) -> None:
        """Keep rules for this project."""
        every = self._all()
        texts = every.get(self._project, [])
        every[self._project] = list(dict.fromkeys((*texts, *(rule.text for rule in rules))))
        self._write(every)

    def remove(self, text: str) -> bool:
        """Forget a rule; whether there was one."""
        every = self._all()
        texts = every.get(self._project, [])
        if text not in texts:
            return False
        texts.remove(text)
        self._write(every)
        return True

    def _all(self) -> dict[str, list[str]]:
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self.warning = f"{self._path} can't be read, so nothing in it is allowed: {error}"
            return {}
        if not isinstance(data, dict):
            return {}
        return {
            str(project): [text for text in texts if isinstance(text, str)]
            for project, texts in data.items()
            if isinstance(texts, list)
        }

    def _write(self, every: dict[str, list[str]]) -> None:
        try:
            write_private(self._path, json.dumps(every, indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            self.warning = f"the rule holds for this session only: {self._path} can't be written ({error})"


def rules_for(tool: str, arguments: Mapping[str, object]) -> tuple[Rule, ...]:
    """What "session" and "always" would allow: exactly these commands; for edits, all edits.

    Empty where no rule can say it: a command that rules can't judge, or one with a `*` of its own.
    """
    command = arguments.get("command")
    if tool == "shell" and isinstance(command, str):
        lines = [as_text(words) for words in analyse(command).plain or ()]
        return () if any("*" in line for line in lines) else tuple(_exactly(line) for line in lines)
    name = "edit" if tool in ("edit", "write") else tool
    return (Rule(name, None, name),)


def in_words(rules: tuple[Rule, ...]) -> str:
    """What rules of `rules_for` allow, for the person who is asked."""
    if any(rule.pattern is None for rule in rules):
        return f"every {rules[0].tool}"
    return ", ".join(rule.pattern or "" for rule in rules)


def _exactly(line: str) -> Rule:
    return Rule("shell", line, f"shell({line})")
