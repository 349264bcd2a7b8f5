"""May this tool call run? One pure function over a policy and the facts of a call.

Two axes: the *mode* says who is asked, the *sandbox* says what is possible. Deny rules win in every mode;
an allow rule needs a command that is understood completely. Rules are a convenience, not a boundary: the
boundary is the operating system's sandbox.
"""

from __future__ import annotations

import os.path
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from dsv4_agent.permissions.rules import Rule
from dsv4_agent.permissions.shell import Analysis, analyse


class PermissionMode(StrEnum):
    """Who is asked before a call runs."""

    PLAN = "plan"
    DEFAULT = "default"
    ACCEPT_EDITS = "accept-edits"
    AUTO = "auto"
    BYPASS = "bypass"


class SandboxMode(StrEnum):
    """What a call can possibly touch."""

    READ_ONLY = "read-only"
    WORKSPACE_WRITE = "workspace-write"
    OFF = "off"


class Access(StrEnum):
    """What kind of effect a tool has."""

    READ = "read"
    WRITE = "write"
    EXECUTE = "execute"


class Outcome(StrEnum):
    """The answer; `ask` means that a person would have to say yes, so without one it is a no."""

    ALLOW = "allow"
    DENY = "deny"
    ASK = "ask"


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer and where it comes from. `source` is builtin, rule, mode or sandbox."""

    outcome: Outcome
    rule: str | None
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Policy:
    """What the user permits.

    `sandbox_enforced`: the operating system holds commands to `sandbox`; without that, a read-only session
    can run no command. `interactive`: someone is there to be asked about edits as well.
    """

    workspace: Path
    mode: PermissionMode = PermissionMode.DEFAULT
    sandbox: SandboxMode = SandboxMode.OFF
    allow: tuple[Rule, ...] = ()
    deny: tuple[Rule, ...] = ()
    sandbox_enforced: bool = False
    interactive: bool = False


def decide(policy: Policy, tool: str, access: Access, arguments: Mapping[str, object]) -> Decision:
    """Judge one call. `arguments` are the validated ones; `command` and `path` are looked at."""
    command = arguments.get("command")
    if access is Access.EXECUTE and isinstance(command, str):
        return _decide_shell(policy, tool, command)
    paths = _spellings(policy.workspace, arguments.get("path"))
    for rule in policy.deny:
        if rule.denies(tool) and rule.matches_path(paths, ignore_case=True):
            return Decision(Outcome.DENY, rule.text, "rule", f"the rule {rule.text} denies it")
    if access is Access.READ:
        return Decision(Outcome.ALLOW, None, "mode", "reading is allowed")
    if refusal := _limits(policy, access):
        return refusal
    for rule in policy.allow:
        if rule.names(tool) and rule.matches_path(paths[-1:], ignore_case=False):
            return Decision(Outcome.ALLOW, rule.text, "rule", f"the rule {rule.text} allows it")
    if access is Access.WRITE and not (policy.interactive and policy.mode is PermissionMode.DEFAULT):
        return Decision(Outcome.ALLOW, None, "mode", "edits inside the workspace are allowed")
    if policy.mode in {PermissionMode.AUTO, PermissionMode.BYPASS}:
        return Decision(Outcome.ALLOW, None, "mode", f"permission mode {policy.mode} allows it")
    return Decision(Outcome.ASK, None, "mode", _asking(policy, tool))


def hidden(policy: Policy, tool: str) -> Callable[[str], bool] | None:
    """Which files a call of `tool` must leave out where it goes through many; None where there are none.

    The argument is a path relative to the workspace with no link in it.
    """
    rules = [rule for rule in policy.deny if rule.names(tool) and rule.pattern is not None]
    if not rules:
        return None
    return lambda path: any(rule.matches_path((path,), ignore_case=True) for rule in rules)


def _asking(policy: Policy, what: str) -> str:
    """Why a person is needed, and, where none is there, what would do instead."""
    if policy.interactive:
        return f"permission mode {policy.mode} asks about {what}"
    return f"{what} needs an allow rule or --permission-mode auto"


def _limits(policy: Policy, access: Access) -> Decision | None:
    if policy.mode is PermissionMode.PLAN:
        return Decision(Outcome.DENY, None, "mode", "permission mode plan changes nothing")
    if policy.sandbox is SandboxMode.READ_ONLY and not (access is Access.EXECUTE and policy.sandbox_enforced):
        return Decision(Outcome.DENY, None, "sandbox", "the sandbox is read-only")
    return None


def _decide_shell(policy: Policy, tool: str, command: str) -> Decision:
    analysis = analyse(command)
    if policy.mode is not PermissionMode.BYPASS and (rule := _critical(analysis)):
        return Decision(
            Outcome.DENY, rule, "builtin", "the command could destroy the machine or the work tree"
        )
    for deny in policy.deny:
        if deny.names(tool) and deny.denies_shell(analysis):
            return Decision(Outcome.DENY, deny.text, "rule", f"the rule {deny.text} denies it")
    if refusal := _limits(policy, Access.EXECUTE):
        return refusal
    guarded = any(rule.names(tool) for rule in policy.deny)
    # A deny rule holds in bypass as well, so what it can't be tried on does not run unseen.
    if policy.mode is PermissionMode.BYPASS and (analysis.readable or not guarded):
        return Decision(Outcome.ALLOW, None, "mode", "permission mode bypass allows it")
    if not analysis.readable:
        return Decision(Outcome.ASK, None, "builtin", f"the command {analysis.reason}")
    if policy.mode is PermissionMode.AUTO:
        return Decision(Outcome.ALLOW, None, "mode", "permission mode auto allows it")
    return _allowed_by_rules(policy, tool, analysis)


def _allowed_by_rules(policy: Policy, tool: str, analysis: Analysis) -> Decision:
    rules = [rule for rule in policy.allow if rule.names(tool)]
    needs = _asking(policy, "a shell command")
    if not rules:
        return Decision(Outcome.ASK, None, "mode", needs)
    if everything := next((rule for rule in rules if rule.pattern is None), None):
        return Decision(Outcome.ALLOW, everything.text, "rule", f"the rule {everything.text} allows it")
    if analysis.plain is None:
        reason = f"the command {analysis.reason}, so no allow rule can judge it"
        return Decision(Outcome.ASK, None, "rule", reason)
    used: list[str] = []
    for words in analysis.plain:
        rule = next((rule for rule in rules if rule.matches_words(words)), None)
        if rule is None:
            return Decision(Outcome.ASK, None, "rule", f"no allow rule matches {words[0]!r}: {needs}")
        used.append(rule.text)
    if not used:
        return Decision(Outcome.ASK, None, "rule", "there is no command in it")
    names = ", ".join(dict.fromkeys(used))
    return Decision(Outcome.ALLOW, names, "rule", f"allowed by {names}")


def _spellings(workspace: Path, path: object) -> tuple[str, ...]:
    """The path as written and as resolved, both relative to the workspace where they lie inside."""
    if not isinstance(path, str) or "\0" in path:
        return (".",)
    root = os.path.realpath(workspace)
    written = os.path.normpath(os.path.join(root, path))  # noqa: PTH118 - lexical on purpose
    return tuple(_relative(root, spelling) for spelling in (written, os.path.realpath(written)))


def _relative(root: str, path: str) -> str:
    inside = path == root or path.startswith(root.rstrip("/") + "/")
    return Path(os.path.relpath(path, root)).as_posix() if inside else Path(path).as_posix()


_HOMES = {f"{home}{rest}" for home in ("~", "$HOME", "${HOME}") for rest in ("", "/", "/*")}
_HERE = {".", "./", "./*", "*", "..", "../", "../*", ".git", ".git/", "./.git", "./.git/"}
_EVERYTHING = frozenset({"/", "/*", *_HOMES, *_HERE})
_SYSTEM = ("/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/opt", "/root", "/sbin", "/sys", "/usr", "/var")


def _critical(analysis: Analysis) -> str | None:
    for name, *arguments in analysis.found:
        options = [word for word in arguments if word.startswith("-")]
        targets = [word for word in arguments if not word.startswith("-")]
        recursive = any(word in {"--recursive"} or _short(word, "rR") for word in options)
        whole = any(word in _EVERYTHING or word.rstrip("/*") in _SYSTEM for word in targets)
        if name in {"rm", "chmod", "chown"} and recursive and whole:
            return "critical-path"
        if name.split(".")[0] == "mkfs" or name in {"shutdown", "reboot", "poweroff", "halt", "wipefs"}:
            return "critical-command"
        if name == "dd" and any(word.startswith("of=/dev/") for word in targets):
            return "critical-device"
    return None


def _short(word: str, letters: str) -> bool:
    return not word.startswith("--") and any(letter in word for letter in letters)
