"""Words and numbers that several reports share. Everything that came from outside is made harmless."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from dsv4_agent.batch.states import ItemResult, Spent, State
from dsv4_agent.workbench.plain_text import plain_line

MARK = {
    State.DONE: "✓",
    State.NO_CHANGE: "=",
    State.VERIFY_FAILED: "✗",
    State.CONFLICT: "≠",
    State.ERROR: "!",
    State.SKIPPED: "-",
    State.BUDGET: "$",
}


def begun(run: str, items: int, finished: int, jobs: int) -> str:
    """`batch ID: 40 items, 12 finished before, 4 at once`."""
    before = f", {finished} finished before" if finished else ""
    return f"batch {run}: {items} item{'' if items == 1 else 's'}{before}, {jobs} at once"


def counted(results: Iterable[ItemResult]) -> str:
    """`37 done, 2 conflict, 1 error`, in a fixed order."""
    counts = Counter(result.state for result in results)
    return ", ".join(f"{counts[state]} {state.value}" for state in State if counts[state]) or "no items"


def tokens(spent: Spent) -> str:
    """`12,340 tokens sampled, 4,100 computed of 96,000 read`."""
    return (
        f"{spent.output_tokens:,} tokens sampled, {spent.prefilled_tokens:,} computed"
        f" of {spent.input_tokens:,} read"
    )


def change(result: ItemResult) -> str:
    """`3 files +4 -2`, empty where nothing changed."""
    count = len(result.files)
    if not count:
        return ""
    return f"{count} file{'' if count == 1 else 's'} +{result.insertions} -{result.deletions}"


def why(result: ItemResult, limit: int = 200) -> str:
    """The reason in one harmless line."""
    return plain_line(result.reason, limit)


def duration(seconds: float) -> str:
    """`8.3 s`, `4 min 02 s`, `1 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
