"""`--summary FILE`: the run as Markdown, appended, as `$GITHUB_STEP_SUMMARY` wants it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsv4_agent.workbench.exit_codes import OwnSubtype
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.money import price
from dsv4_agent.workbench.plain_text import plain, plain_line

_FILES_SHOWN = 50


def append_summary(path: Path, result: Mapping[str, Any]) -> None:
    """Append the Markdown of a result object. Raises `RunFailure` (54)."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(markdown(result))
    except OSError as error:
        cause = f"the summary {path} can't be written: {error.strerror}"
        raise RunFailure(OwnSubtype.TOOLS, cause, "Check the path and free space.") from error


def markdown(result: Mapping[str, Any]) -> str:
    """Outcome, answer, changed files, denials and usage. Foreign text stands in fences only."""
    outcome = "finished" if not result["is_error"] else f"`{result['subtype']}`"
    lines = [f"### dsv4: {outcome} (exit {result['exit_code']})", ""]
    if result["error"]:
        lines += [*fenced(result["error"]), ""]
    if result["result"]:
        lines += [*fenced(result["result"]), ""]
    files: Sequence[str] = result["files_changed"]
    if files:
        stat = (result["git"] or {}).get("diffstat", {})
        counts = f" (+{stat['insertions']} -{stat['deletions']})" if stat else ""
        lines += [f"{len(files)} changed file(s){counts}:", ""]
        shown = [plain_line(name) for name in files[:_FILES_SHOWN]]
        if len(files) > _FILES_SHOWN:
            shown.append(f"… and {len(files) - _FILES_SHOWN} more")
        lines += [*fenced("\n".join(shown)), ""]
    denials: Sequence[Mapping[str, Any]] = result["permission_denials"]
    if denials:
        reasons = "\n".join(plain_line(f"{entry['tool']}: {entry['reason']}") for entry in denials)
        lines += ["Denied:", "", *fenced(reasons), ""]
    usage = result["usage"]
    cached, sampled = usage["cached_input_tokens"], usage["output_tokens"]
    tokens = f"{usage['input_tokens']} input ({cached} cached), {sampled} output"
    seconds = result["duration_ms"] / 1000
    cost = "" if usage["cost"] is None else f", {price(usage['cost'], usage['currency'])}"
    session = f", session `{result['session_id']}`" if result["session_id"] else ""
    lines += [f"{result['num_turns']} turns, {seconds:.1f} s, {tokens} tokens{cost}{session}", ""]
    return "\n".join(lines) + "\n"


def fenced(text: str) -> list[str]:
    """Foreign text as a block of Markdown that it can't get out of."""
    text = plain(text)
    fence = "```"
    while fence in text:
        fence += "`"
    return [f"{fence}text", text, fence]
