"""A unified diff of two versions of one file, bounded, for people to read."""

from __future__ import annotations

import difflib

from dsv4_tools.text import lines_of, visible

CONTEXT = 3
MAX_LINES = 2_000
_HEAVY = 4_000_000
"""Product of the line counts of the part that differs up to which lines are matched up."""


def unified_diff(old: str, new: str) -> str:
    """Hunks (`@@ -a,b +c,d @@`, then lines that begin with ` `, `-` or `+`), without file headers.

    A long diff ends with a line `… N more lines`; where matching would take too long, everything that
    differs is one removal and one addition.
    """
    before, after = lines_of(old), lines_of(new)
    start, end = _common_ends(before, after)
    middle = (len(before) - start - end) * (len(after) - start - end)
    rows = _whole(before, after, start, end) if middle > _HEAVY else _hunks(before, after)
    if len(rows) > MAX_LINES:
        rows = [*rows[:MAX_LINES], f"… {len(rows) - MAX_LINES} more lines"]
    return visible("\n".join(rows))


def _hunks(before: list[str], after: list[str]) -> list[str]:
    return list(difflib.unified_diff(before, after, lineterm="", n=CONTEXT))[2:]


def _common_ends(before: list[str], after: list[str]) -> tuple[int, int]:
    limit = min(len(before), len(after))
    start = 0
    while start < limit and before[start] == after[start]:
        start += 1
    end = 0
    while end < limit - start and before[-1 - end] == after[-1 - end]:
        end += 1
    return start, end


def _whole(before: list[str], after: list[str], start: int, end: int) -> list[str]:
    removed, added = before[start : len(before) - end], after[start : len(after) - end]
    head = f"@@ -{start + 1},{len(removed)} +{start + 1},{len(added)} @@"
    return [head, *("-" + row for row in removed), *("+" + row for row in added)]
