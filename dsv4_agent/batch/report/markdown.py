"""A Markdown summary, for `$GITHUB_STEP_SUMMARY` and merge requests."""

from __future__ import annotations

from dsv4_agent.batch.events import BatchEnded
from dsv4_agent.batch.report.wording import MARK, change, counted, duration, tokens, why
from dsv4_agent.batch.states import ItemResult, State
from dsv4_agent.headless.summary import fenced

_OUTPUTS = 10
_ROWS = 500
_OUTPUT = 2_000


def markdown(ended: BatchEnded, name: str) -> str:
    """Outcome, a table of the items, and what failed checks said. Foreign text can't act as Markdown."""
    results = ended.results
    lines = [
        f"### dsv4 batch {_cell(name)}: {counted(results)}",
        "",
        f"{duration(ended.seconds)}, {tokens(ended.spent)}, batch `{ended.run}`",
        "",
        "| | item | ended as | change | why |",
        "|---|---|---|---|---|",
    ]
    for result in results[:_ROWS]:
        cells = (MARK[result.state], result.id, result.state.value, change(result), why(result))
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    if len(results) > _ROWS:
        lines.append(f"| | … and {len(results) - _ROWS} more | | | |")
    lines.append("")
    failed = [result for result in results if result.output and not result.state.succeeded]
    for result in failed[:_OUTPUTS]:
        lines += _output(result)
    if len(failed) > _OUTPUTS:
        lines += [f"… and {len(failed) - _OUTPUTS} more with output", ""]
    return "\n".join(lines) + "\n"


def _output(result: ItemResult) -> list[str]:
    what = "check" if result.state is State.VERIFY_FAILED else "output"
    head = f"<details><summary>{_cell(result.id)}: {what}</summary>"
    return [head, "", *fenced(result.output[-_OUTPUT:]), "", "</details>", ""]


def _cell(text: str) -> str:
    """Text as itself inside a table: nothing of it is markup, a link, a mention or HTML."""
    return "".join(f"&#{ord(c)};" if c in "\\`*_{}[]()<>#+!|&~@:" else c for c in text)
