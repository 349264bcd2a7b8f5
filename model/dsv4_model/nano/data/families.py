"""The task families and how often each is drawn."""

from __future__ import annotations

import random
from collections.abc import Callable

from dsv4_model.nano.data import declines, history, suites, symbols, texts
from dsv4_model.nano.data.names import Names, Split
from dsv4_model.nano.data.task import Task, Unsuitable

FAMILIES: dict[str, tuple[Callable[[Names], Task], float]] = {
    "rename": (symbols.rename, 2.0),
    "definition": (symbols.definition, 1.0),
    "search": (symbols.search, 1.4),
    "list": (texts.listing, 1.0),
    "lookup": (texts.lookup, 1.5),
    "create": (texts.create, 1.0),
    "replace": (texts.replace, 1.2),
    "delete-line": (texts.delete_line, 1.5),
    "insert-line": (texts.insert_line, 1.5),
    "test": (suites.report, 0.7),
    "fix": (suites.fix, 3.0),
    "status": (history.status, 1.2),
    "diff": (history.diff, 0.6),
    "commit": (history.commit, 0.8),
    "decline": (declines.decline, 2.0),
}
"""Name -> (generator, weight)."""


def draw(seed: int, split: Split, family: str | None = None) -> Task:
    """The task of a seed; the same seed gives the same task. Ambiguous drafts are drawn again."""
    rng = random.Random(f"{split}-{seed}")
    weights = [w for _, w in FAMILIES.values()]
    name = family or rng.choices(list(FAMILIES), weights)[0]
    make, _ = FAMILIES[name]
    while True:
        try:
            return make(Names(rng, split))
        except (Unsuitable, RuntimeError):
            continue
