"""What follows from an item's path: `{name}`, `{stem}`, `{dir}`, and `{tests}`, the tests named after it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from dsv4_agent.batch.template import Value

_TEST_FOLDERS = frozenset({"test", "tests", "__tests__", "spec"})


class Derivation:
    """Derives values from paths among the files of a commit."""

    def __init__(self, files: Iterable[str]) -> None:
        self._files = frozenset(files)
        self._by_stem: defaultdict[str, list[PurePosixPath]] = defaultdict(list)
        for file in sorted(self._files):
            path = PurePosixPath(file)
            self._by_stem[path.stem].append(path)

    def values(self, given: Mapping[str, Value]) -> dict[str, Value]:
        """Values for an item whose `path` or `line` is a file of the commit; else none."""
        file = given.get("path", given.get("line"))
        if not isinstance(file, str) or file not in self._files:
            return {}
        path = PurePosixPath(file)
        return {
            "path": file,
            "name": path.name,
            "stem": path.stem,
            "dir": path.parent.as_posix(),
            "tests": self._tests(path),
        }

    def _tests(self, path: PurePosixPath) -> tuple[str, ...]:
        stem = path.stem
        named = (f"test_{stem}", f"{stem}_test", f"{stem}.test", f"{stem}.spec")
        found = [other for name in named for other in self._by_stem.get(name, ())]
        found += [other for other in self._by_stem[stem] if _TEST_FOLDERS & set(other.parts[:-1])]
        return tuple(other.as_posix() for other in found if other.suffix == path.suffix and other != path)
