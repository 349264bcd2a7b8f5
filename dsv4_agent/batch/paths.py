"""Path patterns as `.gitignore` has them."""

from __future__ import annotations

from collections.abc import Iterable

import pathspec


class Paths:
    """The paths (relative, `/`) that one of some patterns matches; without patterns, none."""

    def __init__(self, patterns: Iterable[str]) -> None:
        # A pattern with a slash is bound to the top, as users of globs expect, and not only where it begins
        # with one; a bare name matches anywhere.
        self._spec = pathspec.PathSpec.from_lines("gitwildmatch", patterns)

    def holds(self, path: str) -> bool:
        """Whether a pattern matches the path or a folder of it."""
        return bool(self._spec.match_file(path))
