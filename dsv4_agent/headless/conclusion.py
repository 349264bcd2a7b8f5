"""How a run ends: the loop's result, seen against the repository and the user's conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from dsv4_agent.headless.atomic_file import write_atomically
from dsv4_agent.headless.options import RunOptions
from dsv4_agent.headless.summary import append_summary
from dsv4_agent.loop.event_json import to_json
from dsv4_agent.loop.events import RunResult, Subtype
from dsv4_agent.workbench.exit_codes import Ending, ExitCode, OwnSubtype, exit_code
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.git_state import Changes, Repository
from dsv4_agent.workbench.plain_text import without_surrogates

Result = dict[str, Any]
_NAMED: Final = 10


def as_object(result: RunResult) -> Result:
    """The published form of the loop's result."""
    return dict(to_json(result))


def failed(failure: RunFailure, session_id: str) -> Result:
    """The result of a run that could not begin."""
    empty = RunResult(
        subtype=Subtype.INTERNAL, is_error=True, exit_code=1, result="", session_id=session_id,
        num_turns=0, duration_ms=0,
    )  # fmt: skip
    return ended(as_object(empty), failure.ending, failure.line(), failure.code)


def ended(result: Mapping[str, Any], ending: Ending, error: str | None, code: int | None = None) -> Result:
    """`result` with another ending."""
    number = exit_code(ending) if code is None else code
    is_error = ending is not Subtype.SUCCESS
    words = {"subtype": ending.value, "is_error": is_error, "exit_code": int(number), "error": error}
    return {**result, **words}


def conclude(
    result: Result, options: RunOptions, repository: Repository, notify: Callable[[str], None]
) -> Result:
    """Add what became of the repository, apply the user's conditions, write the report files.

    What can't be written becomes the ending of a run that was fine so far. It never hides an earlier error,
    nor keeps the other reports from being written: then `notify` is told, also what a patch can't hold.
    """
    changes: Changes | None = None
    try:
        changes = _compared(result, options, repository) if repository.recorded else _reported(result)
        result = _with_changes(result, changes, repository)
        result = _judged(result, options, changes)
    except RunFailure as failure:
        result = _failed_too(result, failure, notify)
    reports = (
        (None if changes is None else options.patch_file, b"" if changes is None else changes.patch),
        (options.last_message_file, without_surrogates(result["result"]).encode()),
    )
    for path, data in reports:
        try:
            if path is not None:
                write_atomically(path, data)
        except RunFailure as failure:
            result = _failed_too(result, failure, notify)
    if options.patch_file is not None and changes is not None and changes.left_out:
        names = ", ".join(changes.left_out[:_NAMED]) + (", ..." if changes.left_out[_NAMED:] else "")
        notify(f"not in the patch, as they are over 16 MB and untracked, or in a submodule: {names}")
    return result


def summarised(result: Result, options: RunOptions, notify: Callable[[str], None]) -> Result:
    """Append the summary, also of a run that could not begin. `notify` as in `conclude`."""
    try:
        if options.summary_file is not None:
            append_summary(options.summary_file, result)
    except RunFailure as failure:
        return _failed_too(result, failure, notify)
    return result


def _failed_too(result: Result, failure: RunFailure, notify: Callable[[str], None]) -> Result:
    if result["is_error"]:
        notify(failure.line())
        return result
    return ended(result, failure.ending, failure.line(), failure.code)


def _compared(result: Result, options: RunOptions, repository: Repository) -> Changes:
    """The difference of the snapshots, and what the tools changed in submodules, into which none looks."""
    changes = repository.changes()
    place = options.directory.resolve()
    paths = [place / name for name in result["files_changed"] if name not in changes.files]
    if not paths or not (inside := repository.in_submodules(paths)):
        return changes
    files = tuple(sorted({*changes.files, *inside}))
    return replace(changes, files=files, left_out=(*changes.left_out, *inside))


def _reported(result: Result) -> Changes:
    """What the tools said they changed, where the directory is too large to be compared."""
    return Changes(tuple(sorted(result["files_changed"])), 0, 0, b"")


def _with_changes(result: Result, changes: Changes, repository: Repository) -> Result:
    outcome = repository.outcome(changes)
    git: Result | None = None
    if outcome is not None:
        git = {"base": outcome.base, "head": outcome.head, "commits": list(outcome.commits)}
        git["diffstat"] = dict(outcome.diffstat)
    return {**result, "files_changed": list(changes.files), "git": git}


def _judged(result: Result, options: RunOptions, changes: Changes) -> Result:
    if result["is_error"]:
        return result
    if options.fail_on_denied and (denials := result["permission_denials"]):
        first = denials[0]
        more = f" and {len(denials) - 1} more" if len(denials) > 1 else ""
        error = f"denied: {first['tool']} ({first['reason']}){more}. Allow it with --allowed-tools."
        return ended(result, Subtype.DENIED, error, ExitCode.DENIED)
    if options.fail_if_no_changes and not changes.files:
        return ended(result, OwnSubtype.NO_CHANGES, "no file was changed (--fail-if-no-changes)")
    return result
