"""Choices of a plan that command lines offer; light."""

from __future__ import annotations

from enum import StrEnum


class Delivery(StrEnum):
    """What a batch leaves behind: patch files, a branch of one commit, of a commit an item, a branch each."""

    PATCHES = "patches"
    BRANCH = "branch"
    COMMITS = "commits"
    BRANCHES = "branches"


class Conflicts(StrEnum):
    """An item whose patch no longer applies: report it, or do the item again on what is integrated."""

    REPORT = "report"
    REDO = "redo"


class Retry(StrEnum):
    """What follows a failed check.

    With `feedback` the model goes on with what the check said; with `fresh` it begins anew, without having
    seen it and with other luck, for which a model that is greedy is sampled.
    """

    FEEDBACK = "feedback"
    FRESH = "fresh"


class ExecutorKind(StrEnum):
    """Who does the items: processes of this machine, or tasks of a Ray cluster."""

    LOCAL = "local"
    RAY = "ray"
