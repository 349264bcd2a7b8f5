"""Exit codes and result subtypes of `dsv4 run`: the one table that code, help page and tests read.

0/1 mean what they mean for other agents, 4x and 5x follow the numbers that gemini-cli published, 128+n are
signals.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final

from dsv4_agent.loop.events import EXIT_CODES, Subtype


class ExitCode(IntEnum):
    """What the process returns; the same number stands in `result.exit_code`."""

    OK = 0
    FAILED = 1
    USAGE = 2
    AUTH = 41
    INPUT = 42
    SANDBOX = 44
    CONFIG = 52
    BUDGET = 53
    TOOLS = 54
    UNTRUSTED = 55
    SCHEMA = 56
    DENIED = 57
    CHANGES = 58
    BATCH = 59
    SIGINT = 130
    SIGPIPE = 141
    SIGTERM = 143


class OwnSubtype(StrEnum):
    """Endings that only a front end can know; they stand in `result.subtype` beside the loop's."""

    TOOLS = "error_tools"
    NO_CHANGES = "error_no_changes"
    DIRTY_TREE = "error_dirty_tree"


Ending = Subtype | OwnSubtype

_OWN_CODES: Final[dict[OwnSubtype, ExitCode]] = {
    OwnSubtype.TOOLS: ExitCode.TOOLS,
    OwnSubtype.NO_CHANGES: ExitCode.CHANGES,
    OwnSubtype.DIRTY_TREE: ExitCode.CHANGES,
}


def exit_code(ending: Ending) -> ExitCode:
    """The exit code of an ending; `aborted` gives 130 (the caller knows the signal where it was another)."""
    if isinstance(ending, OwnSubtype):
        return _OWN_CODES[ending]
    return ExitCode(EXIT_CODES[ending])


MEANING: Final[dict[ExitCode, str]] = {
    ExitCode.OK: "finished, also when the model says it could not (--fail-if-no-changes tells them apart)",
    ExitCode.FAILED: "the run failed: the model failed, kept repeating itself, or an internal error",
    ExitCode.USAGE: "wrong command line",
    ExitCode.AUTH: "authentication failed or the model can't be reached",
    ExitCode.INPUT: "invalid input: empty prompt, stdin over 10 MB, bad schema file, not a git repository",
    ExitCode.SANDBOX: "the sandbox asked for with --sandbox is not available",
    ExitCode.CONFIG: "configuration error: unknown model, missing optional package",
    ExitCode.BUDGET: "a budget ran out: turns, tokens, time or tool calls",
    ExitCode.TOOLS: "tool infrastructure failed, e.g. a full disk (not: a command returned non-zero)",
    ExitCode.UNTRUSTED: "the repository is not trusted and trust was required",
    ExitCode.SCHEMA: "the output did not satisfy --output-schema, also after a retry",
    ExitCode.DENIED: "something was denied, and --fail-on-denied",
    ExitCode.CHANGES: "no changes and --fail-if-no-changes, or a dirty work tree and --require-clean",
    ExitCode.BATCH: "batch: more items failed than --allow-failures",
    ExitCode.SIGINT: "interrupted (SIGINT)",
    ExitCode.SIGPIPE: "the reader of the output went away (SIGPIPE)",
    ExitCode.SIGTERM: "terminated (SIGTERM, SIGHUP)",
}


def table() -> str:
    """The page of `dsv4 help exit-codes`: number, meaning, and the subtypes that lead there."""
    lines = ["Code  Meaning"]
    for code, meaning in MEANING.items():
        lines.append(f"{code.value:>4}  {meaning}")
        subtypes = [e.value for e in (*Subtype, *OwnSubtype) if exit_code(e) is code]
        if subtypes:
            lines.append(f"      result.subtype: {', '.join(subtypes)}")
    return "\n".join(lines) + "\n"
