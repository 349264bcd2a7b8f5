"""Path patterns as `.gitignore` has them."""

from __future__ import annotations

from collections.abc import Iterable

import pathspec


class Paths:
    """The paths (relative, `/`) that one of some patterns matches; without patterns, none."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._spec = pathspec.GitIgnoreSpec.from_lines(patterns)

    def holds(self, path: str) -> bool:
        """Whether a pattern matches the path or a folder of it."""
        return self._spec.match_file(path)
